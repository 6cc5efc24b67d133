//! The one place that names atomics: the standard library's, or loom's when a model is checked.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence};
#[cfg(loom)]
pub use explored::{AtomicU32, AtomicU64, switch_point};
#[cfg(loom)]
pub use loom::sync::atomic::{Ordering, fence};

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

/// loom's atomics, with a point before each access at which another thread may go on.
///
/// loom leaves out interleavings that it takes for equivalent, and is wrong when a thread loads a word before it changes
/// it, which all loops around a compare-and-swap do: the load hides earlier loads of other threads
/// (tokio-rs/loom#166, #392). A store to one word that nobody loads makes every access dependent on every other,
/// so nothing is left out, and orders nothing that the protocols do not order themselves.
#[cfg(loom)]
mod explored {
    use loom::sync::atomic::{self, Ordering};

    loom::lazy_static! {
        static ref TURN: atomic::AtomicU32 = atomic::AtomicU32::new(0);
    }

    /// Another thread may go on here. A model calls it first of all, before it has threads.
    pub fn switch_point() {
        TURN.store(0, Ordering::Relaxed);
    }

    macro_rules! explored {
        ($name:ident, $value:ty) => {
            #[doc = concat!("loom's `", stringify!($name), "`, explored without reduction.")]
            #[derive(Debug, Default)]
            pub struct $name(atomic::$name);

            #[allow(missing_docs)]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self(atomic::$name::new(value))
                }
                #[track_caller]
                pub fn load(&self, order: Ordering) -> $value {
                    switch_point();
                    self.0.load(order)
                }
                #[track_caller]
                pub fn store(&self, value: $value, order: Ordering) {
                    switch_point();
                    self.0.store(value, order);
                }
                #[track_caller]
                pub fn compare_exchange(
                    &self,
                    seen: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    switch_point();
                    self.0.compare_exchange(seen, new, success, failure)
                }
                #[track_caller]
                pub fn compare_exchange_weak(
                    &self,
                    seen: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(seen, new, success, failure)
                }
                #[track_caller]
                pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                    switch_point();
                    self.0.fetch_add(value, order)
                }
                #[track_caller]
                pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                    switch_point();
                    self.0.fetch_and(value, order)
                }
                #[track_caller]
                pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                    switch_point();
                    self.0.fetch_or(value, order)
                }
                #[track_caller]
                pub fn swap(&self, value: $value, order: Ordering) -> $value {
                    switch_point();
                    self.0.swap(value, order)
                }
                #[track_caller]
                pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                    switch_point();
                    self.0.fetch_max(value, order)
                }
            }
        };
    }

    explored!(AtomicU32, u32);
    explored!(AtomicU64, u64);
}

/// A full fence right behind a compare-and-swap of this thread that succeeded. Where such an instruction is a full fence
/// itself (the lock prefix), the compiler only has to keep the order; a second fence would cost as much as the swap.
#[inline]
pub(crate) fn fence_after_swap() {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    fence(Ordering::SeqCst);
}
