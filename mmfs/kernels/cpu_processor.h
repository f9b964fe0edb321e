// What this processor can compute: the instruction sets that setup.py builds libraries for.

#pragma once

namespace mmfs {

#if defined(__x86_64__)
// AVX2, FMA and the conversions of float16, which came to processors before either.
inline bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

inline bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace mmfs
