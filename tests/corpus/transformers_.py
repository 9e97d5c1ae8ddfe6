"""Small configurations of `transformers`: name -> (class, options of its configuration, an example for it)."""

from typing import Any

import torch

from corpus.examples import Example, noise, tokens

__all__ = ["REFUSED_TRANSFORMERS", "TRANSFORMERS"]

Options = dict[str, Any]

_SMALL: Options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 72}
_TEXT = _SMALL | {"vocab_size": 48, "max_position_embeddings": 32}
_ROBERTA = _TEXT | {"max_position_embeddings": 34, "pad_token_id": 0, "type_vocab_size": 1}
_CAUSAL = _TEXT | {"use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED = _CAUSAL | {"num_key_value_heads": 2}
_HEADED = _GROUPED | {"head_dim": 8}
_VISION = _SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 5}
_TWO = {"depths": [2, 2], "num_heads": [2, 2], "image_size": 32}
_SEQ2SEQ: Options = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 72,
    "decoder_ffn_dim": 72,
    "vocab_size": 48,
    "max_position_embeddings": 32,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5: Options = {"d_model": 32, "d_kv": 8, "d_ff": 72, "num_layers": 2, "num_heads": 4, "vocab_size": 48, "use_cache": False}
_SPEECH = _SMALL | {
    "conv_dim": (16, 16, 32),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 20,
    "mask_time_prob": 0.0,
}

_IDS = {"input_ids": tokens(8, 46) + 2}  # neither padding nor the beginning
_MASKED = _IDS | {"attention_mask": torch.ones(2, 8, dtype=torch.long)}
_PAIR = _IDS | {"decoder_input_ids": tokens(6, 46, seed=1) + 2}
_PIXELS = {"pixel_values": noise(2, 3, 32, 32)}
_LARGE = {"pixel_values": noise(2, 3, 64, 64)}
_WAVE = {"input_values": noise(2, 800)}
_MEL = {"input_features": noise(2, 16, 64)}

_ENCODERS: dict[str, tuple[str, Options, Example]] = {
    "Bert": ("BertModel", _TEXT, _MASKED),
    "BertClassifier": ("BertForSequenceClassification", _TEXT | {"num_labels": 3}, _MASKED),
    "Roberta": ("RobertaForMaskedLM", _ROBERTA, _MASKED),
    "XLMRoberta": ("XLMRobertaForTokenClassification", _ROBERTA | {"num_labels": 5}, _IDS),
    "DistilBert": (
        "DistilBertModel",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 72, "vocab_size": 48, "max_position_embeddings": 32},
        _MASKED,
    ),
    "Electra": ("ElectraModel", _TEXT | {"embedding_size": 16}, _IDS),
    "Albert": ("AlbertModel", _TEXT | {"embedding_size": 16}, _IDS),
    "MPNet": ("MPNetModel", _ROBERTA, _IDS),
    "DebertaV2": (
        "DebertaV2Model",
        _TEXT | {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]},
        _IDS,
    ),
    "Deberta": ("DebertaModel", _TEXT, _IDS),
    "MobileBert": (
        "MobileBertModel",
        _TEXT | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2},
        _IDS,
    ),
    "SqueezeBert": ("SqueezeBertModel", _TEXT | {"embedding_size": 32}, _IDS),
    "ConvBert": ("ConvBertModel", _TEXT | {"embedding_size": 32, "conv_kernel_size": 3, "head_ratio": 2}, _IDS),
    "Funnel": ("FunnelBaseModel", {"vocab_size": 48, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 72}, _IDS),
    "ModernBert": (
        "ModernBertModel",
        _TEXT | {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
        _IDS,
    ),
    "RoFormer": ("RoFormerModel", _TEXT | {"embedding_size": 32}, _IDS),
    "FNet": ("FNetModel", _TEXT, _IDS),
    "Esm": ("EsmModel", _TEXT | {"pad_token_id": 0, "mask_token_id": 1, "position_embedding_type": "rotary"}, _IDS),
    "IBert": ("IBertModel", _ROBERTA | {"quant_mode": False}, _IDS),
    "XLNet": ("XLNetModel", {"vocab_size": 48, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 72, "use_mems_eval": False}, _IDS),
    "NomicBert": ("NomicBertModel", _TEXT, _IDS),
    "EuroBert": ("EuroBertModel", _GROUPED, _IDS),
    "BigBird": ("BigBirdModel", _TEXT | {"attention_type": "original_full"}, _IDS),
    "Mra": ("MraModel", _TEXT, _IDS),
    "Yoso": ("YosoModel", _TEXT | {"use_expectation": True}, _IDS),
}

_DECODERS: dict[str, tuple[str, Options, Example]] = {
    "GPT2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 48, "n_positions": 32, "use_cache": False}, _IDS),
    "GPTNeo": (
        "GPTNeoForCausalLM",
        {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "vocab_size": 48,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 32,
            "use_cache": False,
        },
        _IDS,
    ),
    "GPTNeoX": ("GPTNeoXForCausalLM", _CAUSAL, _IDS),
    "GPTJ": (
        "GPTJForCausalLM",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4, "vocab_size": 48, "n_positions": 32, "use_cache": False},
        _IDS,
    ),
    "GPTBigCode": (
        "GPTBigCodeForCausalLM",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 48, "n_positions": 32, "use_cache": False},
        _IDS,
    ),
    "OPT": ("OPTForCausalLM", _CAUSAL | {"ffn_dim": 72, "word_embed_proj_dim": 16}, _IDS),
    "Bloom": ("BloomForCausalLM", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 48, "use_cache": False}, _IDS),
    "Llama": ("LlamaForCausalLM", _GROUPED, _IDS),
    "Mistral": ("MistralForCausalLM", _HEADED | {"sliding_window": 4}, _IDS),
    "Mixtral": ("MixtralForCausalLM", _GROUPED | {"num_local_experts": 2}, _IDS),
    "Qwen2": ("Qwen2ForCausalLM", _GROUPED, _IDS),
    "Qwen2Moe": (
        "Qwen2MoeForCausalLM",
        _GROUPED | {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
        _IDS,
    ),
    "Qwen3": ("Qwen3ForCausalLM", _HEADED, _IDS),
    "Gemma": ("GemmaForCausalLM", _HEADED, _IDS),
    "Gemma2": ("Gemma2ForCausalLM", _HEADED, _IDS),
    "Gemma3": ("Gemma3ForCausalLM", _HEADED, _IDS),
    "Phi": ("PhiForCausalLM", _GROUPED, _IDS),
    "Phi3": ("Phi3ForCausalLM", _GROUPED, _IDS),
    "StableLm": ("StableLmForCausalLM", _GROUPED, _IDS),
    "Falcon": ("FalconForCausalLM", _CAUSAL | {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 72}, _IDS),
    "FalconMultiQuery": ("FalconForCausalLM", _CAUSAL | {"multi_query": True, "ffn_hidden_size": 72}, _IDS),
    "Starcoder2": ("Starcoder2ForCausalLM", _GROUPED, _IDS),
    "Olmo": ("OlmoForCausalLM", _GROUPED, _IDS),
    "Olmo2": ("Olmo2ForCausalLM", _GROUPED, _IDS),
    "Cohere": ("CohereForCausalLM", _GROUPED, _IDS),
    "Granite": ("GraniteForCausalLM", _GROUPED, _IDS),
    "Glm": ("GlmForCausalLM", _HEADED, _IDS),
    "Persimmon": ("PersimmonForCausalLM", _CAUSAL, _IDS),
    "Nemotron": ("NemotronForCausalLM", _HEADED, _IDS),
    "Arcee": ("ArceeForCausalLM", _GROUPED, _IDS),
    "Mpt": ("MptForCausalLM", {"d_model": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 48, "max_seq_len": 32, "use_cache": False}, _IDS),
    "XGLM": (
        "XGLMForCausalLM",
        {
            "d_model": 32,
            "num_layers": 2,
            "attention_heads": 4,
            "ffn_dim": 72,
            "vocab_size": 48,
            "max_position_embeddings": 32,
            "use_cache": False,
        },
        _IDS,
    ),
    "CTRL": (
        "CTRLLMHeadModel",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 72, "vocab_size": 48, "n_positions": 32, "use_cache": False},
        _IDS,
    ),
    "Mamba": ("MambaForCausalLM", {"hidden_size": 32, "state_size": 4, "num_hidden_layers": 2, "vocab_size": 48, "use_cache": False}, _IDS),
    "Mamba2": (
        "Mamba2ForCausalLM",
        {
            "hidden_size": 32,
            "state_size": 8,
            "num_hidden_layers": 2,
            "vocab_size": 48,
            "head_dim": 16,
            "num_heads": 4,
            "n_groups": 2,
            "chunk_size": 8,
            "use_cache": False,
        },
        _IDS,
    ),
    "Rwkv": (
        "RwkvForCausalLM",
        {
            "hidden_size": 32,
            "attention_hidden_size": 32,
            "num_hidden_layers": 2,
            "vocab_size": 48,
            "intermediate_size": 72,
            "use_cache": False,
        },
        _IDS,
    ),
    "DeepseekV3": (
        "DeepseekV3ForCausalLM",
        _CAUSAL
        | {
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "first_k_dense_replace": 2,
            "num_key_value_heads": 4,
        },
        _IDS,
    ),
    "OpenAIGPT": ("OpenAIGPTLMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 48, "n_positions": 32}, _IDS),
}

_PAIRS: dict[str, tuple[str, Options, Example]] = {
    "T5": ("T5EncoderModel", _T5, _IDS),
    "T5Full": ("T5ForConditionalGeneration", _T5 | {"decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu"}, _PAIR),
    "UMT5": ("UMT5EncoderModel", _T5, _IDS),
    "LongT5": ("LongT5EncoderModel", _T5 | {"local_radius": 3}, _MASKED),
    "Bart": ("BartForConditionalGeneration", _SEQ2SEQ, _PAIR),
    "Pegasus": ("PegasusForConditionalGeneration", _SEQ2SEQ, _PAIR),
    "Marian": ("MarianMTModel", _SEQ2SEQ, _PAIR),
    "M2M100": ("M2M100Model", _SEQ2SEQ, _PAIR),
    "ProphetNet": (
        "ProphetNetModel",
        {
            "hidden_size": 32,
            "encoder_ffn_dim": 72,
            "decoder_ffn_dim": 72,
            "num_encoder_layers": 1,
            "num_decoder_layers": 1,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "vocab_size": 48,
            "max_position_embeddings": 32,
            "use_cache": False,
        },
        _PAIR,
    ),
}

_PICTURES: dict[str, tuple[str, Options, Example]] = {
    "ViT": ("ViTModel", _VISION, _PIXELS),
    "ViTClassifier": ("ViTForImageClassification", _VISION, _PIXELS),
    "DeiT": ("DeiTForImageClassificationWithTeacher", _VISION, _PIXELS),
    "Beit": (
        "BeitForImageClassification",
        _VISION | {"use_relative_position_bias": True, "out_indices": [1, 2]},
        _PIXELS,
    ),
    "Data2VecVision": ("Data2VecVisionModel", _VISION | {"use_shared_relative_position_bias": True}, _PIXELS),
    "Dinov2": ("Dinov2Model", _VISION | {"mlp_ratio": 2}, _PIXELS),
    "Dinov2WithRegisters": ("Dinov2WithRegistersModel", _VISION | {"mlp_ratio": 2, "use_swiglu_ffn": True}, _PIXELS),
    "DINOv3ViT": ("DINOv3ViTModel", _VISION, _PIXELS),
    "Yolos": ("YolosForObjectDetection", _VISION | {"image_size": [32, 32], "num_detection_tokens": 5}, _PIXELS),
    "Swin": ("SwinModel", _TWO | {"patch_size": 2, "embed_dim": 8, "window_size": 4}, _PIXELS),
    "Swinv2": ("Swinv2ForImageClassification", _TWO | {"patch_size": 2, "embed_dim": 16, "window_size": 4, "num_labels": 5}, _PIXELS),
    "FocalNet": (
        "FocalNetModel",
        {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2], "focal_windows": [3, 3]},
        _PIXELS,
    ),
    "ConvNext": ("ConvNextModel", {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}, _PIXELS),
    "ConvNextV2": (
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "num_labels": 5},
        _PIXELS,
    ),
    "ResNet": (
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [2, 1], "num_labels": 5},
        _PIXELS,
    ),
    "ResNetBasic": ("ResNetModel", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [2, 2], "layer_type": "basic"}, _PIXELS),
    "RegNet": ("RegNetModel", {"embedding_size": 16, "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "groups_width": 8}, _PIXELS),
    "MobileNetV1": ("MobileNetV1Model", {"image_size": 32, "depth_multiplier": 0.25, "min_depth": 8}, _PIXELS),
    "MobileNetV2": ("MobileNetV2Model", {"image_size": 32, "depth_multiplier": 0.25}, _PIXELS),
    "MobileViT": (
        "MobileViTModel",
        {
            "image_size": 32,
            "hidden_sizes": [16, 24, 32],
            "neck_hidden_sizes": [8, 8, 16, 16, 16, 24, 32],
            "num_attention_heads": 4,
            "expand_ratio": 2.0,
            "mlp_ratio": 2.0,
            "output_stride": 16,
        },
        _PIXELS,
    ),
    "MobileViTV2": (
        "MobileViTV2Model",
        {
            "image_size": 32,
            "width_multiplier": 0.25,
            "n_attn_blocks": [1, 1, 1],
            "base_attn_unit_dims": [32, 48, 64],
            "expand_ratio": 2.0,
            "ffn_multiplier": 2,
        },
        _LARGE,
    ),
    "PoolFormer": ("PoolFormerModel", {"hidden_sizes": [16, 24, 32, 32], "depths": [1, 1, 1, 1], "mlp_ratio": 2.0}, _PIXELS),
    "Segformer": (
        "SegformerForSemanticSegmentation",
        {
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "num_attention_heads": [2, 4],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 32,
            "num_labels": 5,
        },
        _PIXELS,
    ),
    "Levit": (
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 24, 32],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "patch_size": 16,
            "num_labels": 5,
        },
        _LARGE,
    ),
    "Cvt": (
        "CvtModel",
        {
            "embed_dim": [16, 32],
            "num_heads": [1, 2],
            "depth": [1, 2],
            "patch_sizes": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [2, 1],
            "mlp_ratio": [2.0, 2.0],
            "attention_drop_rate": [0.0, 0.0],
            "drop_rate": [0.0, 0.0],
            "drop_path_rate": [0.0, 0.1],
            "qkv_bias": [True, True],
            "cls_token": [False, True],
            "qkv_projection_method": ["dw_bn", "dw_bn"],
            "kernel_qkv": [3, 3],
            "padding_kv": [1, 1],
            "stride_kv": [2, 2],
            "padding_q": [1, 1],
            "stride_q": [1, 1],
        },
        _PIXELS,
    ),
    "Pvt": (
        "PvtModel",
        {
            "image_size": 32,
            "hidden_sizes": [16, 32],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "num_attention_heads": [2, 4],
            "sequence_reduction_ratios": [2, 1],
            "patch_sizes": [4, 2],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
        },
        _PIXELS,
    ),
    "PvtV2": (
        "PvtV2Model",
        {
            "image_size": 32,
            "hidden_sizes": [16, 24, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "mlp_ratios": [2, 2, 2, 2],
        },
        _PIXELS,
    ),
    "EfficientNet": (
        "EfficientNetModel",
        {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        _PIXELS,
    ),
    "Bit": ("BitModel", {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "num_groups": 4}, _PIXELS),
    "Hiera": (
        "HieraModel",
        {
            "image_size": [32, 32],
            "patch_stride": [4, 4],
            "embed_dim": 16,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "query_stride": [2, 2],
            "masked_unit_size": [4, 4],
            "masked_unit_attention": [True, False],
            "num_query_pool": 1,
            "mlp_ratio": 2.0,
        },
        _PIXELS,
    ),
    "SwiftFormer": (
        "SwiftFormerModel",
        {"image_size": 32, "depths": [1, 1, 1, 1], "embed_dims": [16, 24, 32, 32], "mlp_ratio": 2},
        _PIXELS,
    ),
    "ViTPose": ("VitPoseBackbone", _VISION | {"image_size": [32, 32], "patch_size": [8, 8]}, _PIXELS),
    "Swin2SR": (
        "Swin2SRForImageSuperResolution",
        {"image_size": 16, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "upscale": 2},
        {"pixel_values": noise(2, 3, 16, 16)},
    ),
    "VideoMAE": ("VideoMAEModel", _VISION | {"num_frames": 2, "tubelet_size": 2}, {"pixel_values": noise(2, 2, 3, 32, 32)}),
    "Timesformer": ("TimesformerModel", _VISION | {"num_frames": 2}, {"pixel_values": noise(2, 2, 3, 32, 32)}),
    "ClipVision": ("CLIPVisionModel", _VISION, _PIXELS),
}

_SOUNDS: dict[str, tuple[str, Options, Example]] = {
    "Wav2Vec2": ("Wav2Vec2ForCTC", _SPEECH, _WAVE),
    "Hubert": ("HubertModel", _SPEECH, _WAVE),
    "WavLM": ("WavLMModel", _SPEECH | {"num_buckets": 16, "max_bucket_distance": 32}, _WAVE),
    "SEW": ("SEWModel", _SPEECH | {"squeeze_factor": 2}, _WAVE),
    "UniSpeech": ("UniSpeechModel", _SPEECH, _WAVE),
    "Data2VecAudio": ("Data2VecAudioModel", _SPEECH | {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, _WAVE),
    "Wav2Vec2Conformer": (
        "Wav2Vec2ConformerModel",
        _SPEECH | {"position_embeddings_type": "rotary", "conv_depthwise_kernel_size": 5},
        _WAVE,
    ),
    "AST": (
        "ASTModel",
        _SMALL | {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 32, "num_mel_bins": 16},
        {"input_values": noise(2, 32, 16)},
    ),
    "Whisper": (
        "WhisperForConditionalGeneration",
        _SEQ2SEQ | {"num_mel_bins": 16, "max_source_positions": 32, "max_target_positions": 16},
        _MEL | {"decoder_input_ids": tokens(6, 46) + 2},
    ),
    "Speech2Text": (
        "Speech2TextModel",
        _SEQ2SEQ | {"input_feat_per_channel": 16, "conv_channels": 32, "max_source_positions": 64, "max_target_positions": 16},
        {"input_features": noise(2, 64, 16), "decoder_input_ids": tokens(6, 46) + 2},
    ),
    "Moonshine": (
        "MoonshineModel",
        {
            "hidden_size": 32,
            "intermediate_size": 72,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "vocab_size": 48,
            "use_cache": False,
            "partial_rotary_factor": 0.5,
        },
        {"input_values": noise(2, 1600), "decoder_input_ids": tokens(6, 46) + 2},
    ),
}

_CLIP_TEXT = _TEXT | {"projection_dim": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_BOTH: dict[str, tuple[str, Options, Example]] = {
    "CLIP": ("CLIPModel", {"text_config": _CLIP_TEXT, "vision_config": _VISION, "projection_dim": 16}, _IDS | _PIXELS),
    "Siglip": ("SiglipModel", {"text_config": _TEXT | {"projection_size": 32}, "vision_config": _VISION}, _IDS | _PIXELS),
    "Blip": (
        "BlipForImageTextRetrieval",
        {
            "text_config": _CLIP_TEXT | {"encoder_hidden_size": 32, "use_cache": False},
            "vision_config": _VISION,
            "image_text_hidden_size": 16,
        },
        _IDS | _PIXELS,
    ),
    "ClipText": ("CLIPTextModelWithProjection", _CLIP_TEXT, _IDS),
    "VisualBert": ("VisualBertModel", _TEXT | {"visual_embedding_dim": 16}, _IDS | {"visual_embeds": noise(2, 4, 16)}),
    "Perceiver": (
        "PerceiverModel",
        {
            "num_latents": 8,
            "d_latents": 32,
            "d_model": 24,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 4,
            "num_cross_attention_heads": 4,
        },
        {"inputs": noise(2, 12, 24)},
    ),
    "PatchTST": (
        "PatchTSTForPrediction",
        {
            "num_input_channels": 2,
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "d_model": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 72,
            "prediction_length": 8,
        },
        {"past_values": noise(2, 32, 2)},
    ),
    "PatchTSMixer": (
        "PatchTSMixerForPrediction",
        {
            "context_length": 32,
            "patch_length": 8,
            "patch_stride": 8,
            "num_input_channels": 2,
            "d_model": 32,
            "num_layers": 2,
            "prediction_length": 8,
        },
        {"past_values": noise(2, 32, 2)},
    ),
    "DecisionTransformer": (
        "DecisionTransformerModel",
        {"state_dim": 6, "act_dim": 3, "hidden_size": 32, "n_layer": 2, "n_head": 4, "max_ep_len": 16, "vocab_size": 1, "n_positions": 32},
        {
            "states": noise(2, 5, 6),
            "actions": noise(2, 5, 3),
            "rewards": noise(2, 5, 1),
            "returns_to_go": noise(2, 5, 1),
            "timesteps": tokens(5, 16),
            "attention_mask": torch.ones(2, 5, dtype=torch.long),
        },
    ),
}

TRANSFORMERS: dict[str, tuple[str, Options, Example]] = _ENCODERS | _DECODERS | _PAIRS | _PICTURES | _SOUNDS | _BOTH
# those that have no graph, with a part of the reason that is given
REFUSED_TRANSFORMERS: dict[str, tuple[str, Options, Example, str]] = {
    "SwitchTransformers": (
        "SwitchTransformersEncoderModel",
        _T5 | {"num_experts": 2, "num_sparse_encoder_layers": 1},
        _MASKED,
        "Couldn't swap Linear.weight",
    ),
    "Nystromformer": (
        "NystromformerModel",
        _TEXT | {"num_landmarks": 4, "segment_means_seq_len": 8, "conv_kernel_size": 5},
        _IDS,
        "The size of tensor a (4) must match the size of tensor b (8)",
    ),
    "LED": (
        "LEDModel",
        _SEQ2SEQ | {"max_encoder_position_embeddings": 32, "max_decoder_position_embeddings": 32, "attention_window": 4},
        _PAIR,
        "data-dependent expression",
    ),
    "Superpoint": (
        "SuperPointForKeypointDetection",
        {"encoder_hidden_sizes": [16, 16, 32, 32], "decoder_hidden_size": 32},
        _PIXELS,
        "nonzero (aten.nonzero.default) does not fit",
    ),
}
