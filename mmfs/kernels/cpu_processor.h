// What this processor can compute: the instruction sets that setup.py builds libraries for.

#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace mmfs {

#if defined(__x86_64__)
// Conversions of float16, which __builtin_cpu_supports does not know in older versions of Clang.
inline bool has_f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

inline bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

inline bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace mmfs
