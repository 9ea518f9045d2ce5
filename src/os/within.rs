//! Runs a call that may block for ever in a thread of its own, and gives up on its answer after a second. A process
//! can delay reads of its memory for ever (userfaultfd(2), a mapped file of FUSE) and hold locks that files of /proc
//! wait for; the directory of another user may be on a file system of that user.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long the caller waits for an answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// The most unanswered questions; beyond it nothing is asked.
const MOST: usize = 4;
static UNANSWERED: AtomicUsize = AtomicUsize::new(0);

/// The answer of `ask`, which runs in a thread; `None` if it took more than a second, or no thread could be made.
pub(super) fn within_a_second<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if UNANSWERED.load(Ordering::Relaxed) >= MOST {
        return None;
    }
    let (sender, receiver) = mpsc::channel();
    UNANSWERED.fetch_add(1, Ordering::Relaxed);
    let asked = thread::Builder::new().name("ask".to_owned()).stack_size(256 << 10).spawn(move || {
        let answer = ask();
        UNANSWERED.fetch_sub(1, Ordering::Relaxed);
        // A late answer has no receiver.
        let _late = sender.send(answer);
    });
    if let Err(error) = asked {
        UNANSWERED.fetch_sub(1, Ordering::Relaxed);
        log::debug!("cannot start a thread for a call that may block: {error}");
        return None;
    }
    receiver.recv_timeout(PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::sys::tests::{alone, eventually};

    #[test]
    fn what_is_never_answered_holds_up_nobody_for_long() {
        // Other tests of this process ask as well, and at most four may be unanswered.
        alone("os::within::tests::what_is_never_answered_holds_up_nobody_for_long", || {
            assert_eq!(within_a_second(|| 7), Some(7));
            let stuck: Vec<_> = (0..MOST)
                .map(|_| {
                    let (release, released) = mpsc::channel::<()>();
                    assert_eq!(within_a_second(move || released.recv().is_err()), None);
                    release
                })
                .collect();
            assert_eq!(within_a_second(|| panic!("it is not even asked")), None::<()>);
            drop(stuck);
            eventually("they are done", || within_a_second(|| ()));
        });
    }
}
