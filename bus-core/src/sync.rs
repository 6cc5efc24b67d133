//! The one place that names atomics: the standard library's, or loom's when a model is checked.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// loom explores every interleaving itself; a compiler fence says nothing to it, and a full fence is the
/// nearest thing that the asymmetric barrier of [`crate::doorbell`] amounts to.
#[cfg(loom)]
pub fn compiler_fence(order: Ordering) {
    fence(order);
}

/// Tells the core that this is a spin loop. Under loom it yields to the explorer.
#[inline]
pub fn spin_pause() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}
