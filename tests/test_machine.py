from attar.machine import features, processor, read_processor


def test_processor_of_intel_amd_and_arm():
    intel = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nmodel name\t: other\n"
    assert read_processor(intel) == ("Intel(R) Xeon(R)", ("fpu", "avx2", "fma"))
    assert read_processor("processor : 0\nFeatures : fp asimd i8mm\nCPU part : 0xd0c\n") == ("", ("fp", "asimd", "i8mm"))
    assert read_processor("") == ("", ())


def test_this_machine_has_a_name():
    assert processor()
    assert all(features())
