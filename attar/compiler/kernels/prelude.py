"""What every emitted C file begins with: vector types, the split of a loop between threads, branch-free scalar functions.

The functions for float32 are written so that GCC and clang vectorise the loops that call them: no branch, no table, no
conversion that can overflow. Each is within a few units in the last place of the true value, keeps NaN and is right at
the infinities. Coefficients are those of Eigen (tanh, erf) and of Cephes (exp, log).
"""

__all__ = ["PRELUDE"]

PRELUDE = r"""
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// floats in a vector; the target says
#ifndef VL
#define VL 4
#endif

// vectors that may lie anywhere: unaligned, and over memory of another type
typedef float vf __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(4 * VL), aligned(8), may_alias));

// the elements of two vectors, numbered through, that are listed
#if defined(__clang__)
#define PICK(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif

// lo and hi: this thread's share of n rounds
#define SPLIT(lo, hi, n) const long lo = (long)(n) * part / parts, hi = (long)(n) * (part + 1) / parts;

static inline int32_t attar_bits(float x) { int32_t i; memcpy(&i, &x, 4); return i; }
static inline float attar_float(int32_t i) { float x; memcpy(&x, &i, 4); return x; }

// 2^n by its bits, for n from -126 to 127
static inline float attar_power2(int32_t n) { return attar_float((int32_t)((uint32_t)(n + 127) << 23)); }

// NaN in either operand gives NaN, as in PyTorch
static inline float attar_maxf(float a, float b) { return a != a ? a : (b > a || b != b) ? b : a; }
static inline float attar_minf(float a, float b) { return a != a ? a : (b < a || b != b) ? b : a; }
static inline double attar_max(double a, double b) { return a != a ? a : (b > a || b != b) ? b : a; }
static inline double attar_min(double a, double b) { return a != a ? a : (b < a || b != b) ? b : a; }

static inline float attar_expf(float x) {
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.0f ? -104.0f : x;
    // adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits
    const float t = x * 1.44269504088896341f + 12582912.0f;
    const int32_t n = attar_bits(x == x ? t : 12582912.0f) - 0x4B400000;
    const float k = t - 12582912.0f;
    float r = x - k * 0.693359375f;
    r = r - k * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const int32_t half = n >> 1;  // in two steps, so that subnormal and huge results are right
    return p * attar_power2(half) * attar_power2(n - half);
}

static inline float attar_logf(float x) {
    const int small = x < 1.17549435e-38f;
    const float y = small ? x * 8388608.0f : x;
    const int32_t bits = attar_bits(y);
    float e = (float)(((bits >> 23) & 0xFF) - 126) - (small ? 23.0f : 0.0f);
    float m = attar_float((bits & 0x007FFFFF) | 0x3F000000);
    const int low = m < 0.707106781186547524f;
    e = low ? e - 1.0f : e;
    m = low ? m + m - 1.0f : m - 1.0f;
    const float z = m * m;
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z + e * -2.12194440e-4f - 0.5f * z + m + e * 0.693359375f;
    p = x == 0.0f ? -INFINITY : p;
    p = x == INFINITY ? INFINITY : p;
    return x >= 0.0f ? p : NAN;
}

static inline float attar_sigmoidf(float x) { return 1.0f / (1.0f + attar_expf(-x)); }

static inline float attar_tanhf(float x) {
    const float c = x > 7.90531110763549805f ? 7.90531110763549805f : x < -7.90531110763549805f ? -7.90531110763549805f : x;
    const float s = c * c;
    float p = -2.76076847742355e-16f;
    p = p * s + 2.00018790482477e-13f;
    p = p * s - 8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    float q = 1.19825839466702e-06f;
    q = q * s + 1.18534705686654e-04f;
    q = q * s + 2.26843463243900e-03f;
    q = q * s + 4.89352518554385e-03f;
    return fabsf(x) < 0.0004f ? x : c * p / q;
}

static inline float attar_erff(float x) {
    const float c = x > 4.0f ? 4.0f : x < -4.0f ? -4.0f : x;
    const float s = c * c;
    float p = -2.72614225801306e-10f;
    p = p * s + 2.77068142495902e-08f;
    p = p * s - 2.10102402082508e-06f;
    p = p * s - 5.69250639462346e-05f;
    p = p * s - 7.34990630326855e-04f;
    p = p * s - 2.95459980854025e-03f;
    p = p * s - 1.60960333262415e-02f;
    float q = -1.45660718464996e-05f;
    q = q * s - 2.13374055278905e-04f;
    q = q * s - 1.68282697438203e-03f;
    q = q * s - 7.37332916720468e-03f;
    q = q * s - 1.42647390514189e-02f;
    return c * p / q;
}

// log(1 + exp(x)) without overflow, for softplus and its kin
static inline float attar_softplusf(float x) {
    const float e = attar_expf(x > 0.0f ? -x : x), u = 1.0f + e;
    const float small = u == 1.0f ? e : attar_logf(u) * e / (u - 1.0f);
    return (x < 0.0f ? 0.0f : x) + small;
}

// what a conversion cannot hold becomes the smallest integer, as on x86
static inline int64_t attar_int64(double x) { return x >= -9223372036854775808.0 && x < 9223372036854775808.0 ? (int64_t)x : INT64_MIN; }
static inline int32_t attar_int32(double x) { return x > -2147483649.0 && x < 2147483648.0 ? (int32_t)x : INT32_MIN; }

// integers as PyTorch has them: a quotient rounds down, a remainder has the divisor's sign, what is divided by 0 is 0
static inline int64_t attar_maxi(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t attar_mini(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t attar_floordivi(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return b ? (int64_t)(0 - (uint64_t)a) : 0;
    return a / b - (a % b != 0 && (a < 0) != (b < 0));
}
static inline int64_t attar_remainderi(int64_t a, int64_t b) {
    if (b == 0 || b == -1) return 0;
    return a % b + ((a % b != 0 && (a < 0) != (b < 0)) ? b : 0);
}
static inline int64_t attar_powi(int64_t a, int64_t n) {
    if (n < 0) return a == 1 ? 1 : a == -1 ? (n & 1 ? -1 : 1) : 0;
    uint64_t result = 1, base = (uint64_t)a;
    for (; n; n >>= 1, base *= base) result *= n & 1 ? base : 1;
    return (int64_t)result;
}

// and floats
static inline float attar_remainderf(float a, float b) {
    const float r = fmodf(a, b);
    return r != 0.0f && (b < 0.0f) != (r < 0.0f) ? r + b : r;
}
static inline double attar_remainder(double a, double b) {
    const double r = fmod(a, b);
    return r != 0.0 && (b < 0.0) != (r < 0.0) ? r + b : r;
}
static inline double attar_floordiv(double a, double b) {
    if (b == 0.0) return a / b;
    const double q = (a - attar_remainder(a, b)) / b;
    return q == 0.0 ? copysign(0.0, a / b) : floor(q) + (q - floor(q) > 0.5);
}
static inline float attar_floordivf(float a, float b) {
    if (b == 0.0f) return a / b;
    const float q = (a - attar_remainderf(a, b)) / b;
    return q == 0.0f ? copysignf(0.0f, a / b) : floorf(q) + (float)(q - floorf(q) > 0.5f);
}
static inline double attar_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static inline double attar_softplus(double x) { return (x < 0.0 ? 0.0 : x) + log1p(exp(x > 0.0 ? -x : x)); }
"""
