//! Runs code compiled for AVX2 with FMA where the processor has them.

#![allow(unsafe_code)]

/// Calls `f`, with what is inlined into it compiled for AVX2 and FMA where the processor has both.
#[inline(always)]
pub(crate) fn run<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            // SAFETY: the processor has AVX2 and FMA, as just asked.
            return unsafe { avx2(f) };
        }
    }
    f()
}
