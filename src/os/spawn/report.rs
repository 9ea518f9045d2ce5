//! What a child reports (`status` says how): the step that failed, and its errno.

#![forbid(unsafe_code)]

/// A step of the child between clone(2) and its new program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ChildStep {
    ProcessGroup,
    Descriptors,
    Stdin,
    Stdout,
    Stderr,
    Filter,
    OomScore,
    Nice,
    Limit,
    Groups,
    Gid,
    Uid,
    Directory,
    Signals,
    Exec,
}

impl ChildStep {
    const ALL: [Self; 15] = [
        Self::ProcessGroup,
        Self::Descriptors,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Filter,
        Self::OomScore,
        Self::Nice,
        Self::Limit,
        Self::Groups,
        Self::Gid,
        Self::Uid,
        Self::Directory,
        Self::Signals,
        Self::Exec,
    ];

    /// Wishes that systemd lets go, too, where we have not the right to grant them (containers, ordinary users).
    pub(super) const fn is_a_wish(self, errno: i32) -> bool {
        match self {
            Self::Filter => true,
            Self::OomScore | Self::Nice | Self::Limit => matches!(errno, libc::EPERM | libc::EACCES),
            _ => false,
        }
    }
}

/// One report of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepReport {
    pub(super) step: ChildStep,
    pub(super) errno: i32,
    /// Which limit, in the order of the plan.
    pub(super) detail: u32,
}

/// The size of a report in a pipe.
pub(super) const REPORT_BYTES: usize = 12;

impl StepReport {
    pub(super) const fn to_words(self) -> [u32; 3] {
        [self.step as u32, self.errno as u32, self.detail]
    }

    /// Returns `None` for a step that does not exist.
    pub(super) fn from_bytes(bytes: [u8; REPORT_BYTES]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
        let step = *ChildStep::ALL.get(u32::from_ne_bytes([a, b, c, d]) as usize)?;
        let errno = i32::from_ne_bytes([e, f, g, h]);
        Some(Self { step, errno, detail: u32::from_ne_bytes([i, j, k, l]) })
    }
}

/// What a step of the child came to.
pub(super) type Reported<T> = Result<T, StepReport>;
