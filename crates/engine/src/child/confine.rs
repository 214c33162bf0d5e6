//! A process that gives up everything but computing, for good.
//!
//! Three layers, since each has its own kind of hole: limits of the process, Landlock, and a list of system calls. The
//! list alone is enough, because nothing on it opens, connects or starts anything; where a kernel has no Landlock, it has
//! to be.

use std::{collections::BTreeMap, io};

use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, Scope};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

/// What a confined process may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Address space, in bytes. An allocation beyond it fails.
    pub(super) memory_bytes: u64,
    /// Processor time, in seconds. Whoever needs more is killed.
    pub(super) cpu_seconds: u64,
}

/// What a program needs that computes, allocates, and reads and writes descriptors that it has.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    // std reads and writes sockets by these.
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines this process: from now on it can compute, use at most so much memory and time, and read and write the
/// descriptors that it has. A file that it opens is refused, whatever else it tries ends it with SIGSYS. Nothing takes
/// this back.
///
/// Call it before starting threads: Landlock holds for the calling thread and those that it starts.
///
/// # Errors
/// The kernel does not offer this, or refuses it. The process must not go on to what it was to be confined for: part of
/// it may hold.
pub(super) fn confine(limits: Limits) -> io::Result<()> {
    for (resource, most, hard) in [
        (Resource::As, limits.memory_bytes, limits.memory_bytes),
        // The signal of the soft limit says why; that of the hard one could come from anybody.
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds + 1),
        (Resource::Core, 0, 0),
        (Resource::Fsize, 0, 0),
    ] {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(hard) })?;
    }
    // Nobody else of the same user may look into it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    restrict_files_and_network().map_err(io::Error::other)?;
    // Sets no_new_privs as well.
    for filter in [refused(), allowed()] {
        seccompiler::apply_filter_all_threads(&filter.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Nothing is allowed of all that the kernel's Landlock knows.
fn restrict_files_and_network() -> Result<(), landlock::RulesetError> {
    let newest = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(())
}

/// What ends a process that tries anything else.
fn allowed() -> Result<BpfProgram, BackendError> {
    let executable = libc::PROT_EXEC as u64;
    let not_executable = (2, SeccompCmpOp::MaskedEq(executable), 0);
    // std asks whether a descriptor is open before it closes it, in builds with assertions.
    let flags = (1, SeccompCmpOp::Eq, libc::F_GETFD as u64);
    // `abort`, which is how a program ends that cannot allocate, sends itself a signal.
    let itself = (0, SeccompCmpOp::Eq, u64::from(std::process::id()));
    let conditional = [
        (libc::SYS_tgkill, itself),
        (libc::SYS_mmap, not_executable.clone()),
        (libc::SYS_mprotect, not_executable),
        (libc::SYS_fcntl, flags),
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    for (call, (argument, compared, with)) in conditional {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compared, with)?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    rules.insert(libc::SYS_openat, Vec::new());
    program(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// The C library opens a file of /proc before it gives memory back, and goes on without.
fn refused() -> Result<BpfProgram, BackendError> {
    let rules = BTreeMap::from([(libc::SYS_openat, Vec::new())]);
    program(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES as u32))
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    others: SeccompAction,
    these: SeccompAction,
) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, others, these, std::env::consts::ARCH.try_into()?)?.try_into()
}
