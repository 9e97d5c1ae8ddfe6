// Stand-ins in plain C for the AVX-512 instructions that kernels of bytes name, so that their meaning is tested where there is no AVX-512.
#include <math.h>
#include <stdint.h>
#include <string.h>
#define _IMMINTRIN_H_INCLUDED
#define __IMMINTRIN_H

typedef long long __m128i __attribute__((vector_size(16), may_alias));
typedef long long __m512i __attribute__((vector_size(64), may_alias));
typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef union { __m512i v; __m512 f; uint8_t u8[64]; int8_t s8[64]; int16_t s16[32]; int32_t s32[16]; int64_t s64[8]; float f32[16]; } any512;
#define EACH(n) for (int i = 0; i < (n); i++)
#define ANY(name, v_) any512 name; name.v = (v_)

static inline __m128i _mm_loadu_si128(const __m128i *p) { __m128i v; memcpy(&v, p, 16); return v; }
static inline __m512i _mm512_broadcast_i32x4(__m128i x) { any512 r; EACH(4) memcpy(r.u8 + 16 * i, &x, 16); return r.v; }
static inline __m512i _mm512_loadu_si512(const void *p) { any512 r; memcpy(&r, p, 64); return r.v; }
static inline void _mm512_storeu_si512(void *p, __m512i v) { memcpy(p, &v, 64); }
#define UNPACK(name, field, half, of) \
    static inline __m512i name(__m512i x, __m512i y) { \
        ANY(a, x); ANY(b, y); any512 r; \
        EACH(64 / of) { const int lane = i / (16 / of), k = i % (16 / of); r.field[i] = (k % 2 ? b : a).field[lane * (16 / of) + half * (8 / of) + k / 2]; } \
        return r.v; \
    }
UNPACK(_mm512_unpacklo_epi8, u8, 0, 1)
UNPACK(_mm512_unpackhi_epi8, u8, 1, 1)
UNPACK(_mm512_unpacklo_epi16, s16, 0, 2)
UNPACK(_mm512_unpackhi_epi16, s16, 1, 2)
UNPACK(_mm512_unpacklo_epi32, s32, 0, 4)
UNPACK(_mm512_unpackhi_epi32, s32, 1, 4)
UNPACK(_mm512_unpacklo_epi64, s64, 0, 8)
UNPACK(_mm512_unpackhi_epi64, s64, 1, 8)
static inline __m512i _mm512_dpbusd_epi32(__m512i s, __m512i x, __m512i y) {
    ANY(r, s); ANY(a, x); ANY(b, y);
    EACH(64) r.s32[i / 4] += a.u8[i] * b.s8[i];
    return r.v;
}
static inline __m512i _mm512_packs_epi32(__m512i x, __m512i y) {
    ANY(a, x); ANY(b, y); any512 r;
    EACH(32) { const int32_t v = (i % 8 < 4 ? a : b).s32[i / 8 * 4 + i % 4]; r.s16[i] = (int16_t)(v > 32767 ? 32767 : v < -32768 ? -32768 : v); }
    return r.v;
}
static inline __m512i _mm512_packus_epi16(__m512i x, __m512i y) {
    ANY(a, x); ANY(b, y); any512 r;
    EACH(64) { const int v = (i % 16 < 8 ? a : b).s16[i / 16 * 8 + i % 8]; r.u8[i] = (uint8_t)(v > 255 ? 255 : v < 0 ? 0 : v); }
    return r.v;
}
static inline __m512i _mm512_adds_epi16(__m512i x, __m512i y) {
    ANY(a, x); ANY(b, y); any512 r;
    EACH(32) { const int v = a.s16[i] + b.s16[i]; r.s16[i] = (int16_t)(v > 32767 ? 32767 : v < -32768 ? -32768 : v); }
    return r.v;
}
static inline __m512i _mm512_max_epu8(__m512i x, __m512i y) { ANY(a, x); ANY(b, y); EACH(64) if (b.u8[i] > a.u8[i]) a.u8[i] = b.u8[i]; return a.v; }
static inline __m512i _mm512_min_epu8(__m512i x, __m512i y) { ANY(a, x); ANY(b, y); EACH(64) if (b.u8[i] < a.u8[i]) a.u8[i] = b.u8[i]; return a.v; }
static inline __m512i _mm512_set1_epi16(short w) { any512 r; EACH(32) r.s16[i] = w; return r.v; }
static inline __m512i _mm512_set1_epi8(char w) { any512 r; EACH(64) r.s8[i] = (int8_t)w; return r.v; }
static inline __m512 _mm512_cvtepi32_ps(__m512i x) { ANY(a, x); any512 r; EACH(16) r.f32[i] = (float)a.s32[i]; return r.f; }
static inline __m512i _mm512_cvtps_epi32(__m512 x) { any512 r, a; a.f = x; EACH(16) r.s32[i] = (int32_t)rintf(a.f32[i]); return r.v; }
static inline __m512 _mm512_mul_ps(__m512 x, __m512 y) { return x * y; }
