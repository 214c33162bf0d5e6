//! A process that gives up everything but computing, for good.
//!
//! Several layers, since each has its own kind of hole: limits, no capabilities, Landlock, and a list of system calls. The
//! list is enough by itself, because nothing on it opens, connects or starts anything or reaches another process; where a
//! kernel has no Landlock, it has to be.

use std::{collections::BTreeMap, io};

use landlock::{ABI, Access as _, AccessFs, AccessNet, Ruleset, RulesetAttr as _, RulesetError, Scope};
use rustix::{
    process::{
        DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior,
        set_parent_process_death_signal, setrlimit,
    },
    thread::{CapabilitySet, CapabilitySets, set_capabilities, set_name},
};
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

/// The most of what a process may still do afterwards: the calls of a program that computes, allocates, and reads and
/// writes descriptors that it has.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_getrandom,
    libc::SYS_sched_yield,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Refused by another filter.
    libc::SYS_openat,
];

/// Confines this process: from now on it can compute, use at most so much memory and time, and read and write the
/// descriptors that it has. A file that it opens is refused; anything else ends it with SIGSYS. Nothing takes this back.
///
/// Call it before starting threads: capabilities and Landlock are those of the calling thread.
///
/// # Errors
/// The kernel does not offer this, or refuses it. The process must not go on to what it was to be confined for: part of
/// it may hold.
pub(super) fn confine(limits: Limits) -> io::Result<()> {
    // If memory is short, this process goes first. Not everybody may say so, and nothing depends on it.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    let _ = set_name(c"bygone-child");
    for (resource, most, hard) in [
        (Resource::As, limits.memory_bytes, limits.memory_bytes),
        // The signal of the soft limit says why; that of the hard one could come from anybody.
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds + 1),
        (Resource::Core, 0, 0),
        (Resource::Fsize, 0, 0),
    ] {
        // Only a privileged process may go above a lower limit that it was given.
        let given = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit { current: Some(most.min(given)), maximum: Some(hard.min(given)) };
        setrlimit(resource, limit)?;
    }
    // A manager that runs as root is one by its capabilities as well.
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // Nobody else of the same user may look into it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // A child that does not look at its socket would not notice that its manager is gone.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    restrict_files_and_network().map_err(io::Error::other)?;
    // Sets no_new_privs as well.
    for filter in [refused(), allowed()] {
        seccompiler::apply_filter_all_threads(&filter.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    Ok(())
}

/// Takes all rights from this thread that the kernel's Landlock knows; none where there is no Landlock.
pub(super) fn restrict_files_and_network() -> Result<(), RulesetError> {
    let newest = ABI::V6;
    Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .restrict_self()?;
    Ok(())
}

/// A condition on an argument of a call, whose number comes first.
type Condition = (u8, SeccompCmpOp, u64);

/// The filter that ends a process that makes any other call.
fn allowed() -> Result<BpfProgram, BackendError> {
    use SeccompCmpOp::{Eq, Le, MaskedEq};
    let no_bits = |argument, bits: libc::c_int| (argument, MaskedEq(bits as u64), 0);
    let is = |argument, value: libc::c_int| (argument, Eq, value as u64);
    // All conditions of one line have to hold, and one line of a call.
    let mapped = no_bits(3, libc::MAP_HUGETLB | libc::MAP_LOCKED);
    let conditional: [(libc::c_long, &[Condition]); 13] = [
        (libc::SYS_mmap, &[no_bits(2, libc::PROT_EXEC), mapped]),
        (libc::SYS_mprotect, &[no_bits(2, libc::PROT_EXEC)]),
        (libc::SYS_madvise, &[is(2, libc::MADV_DONTNEED)]),
        (libc::SYS_madvise, &[is(2, libc::MADV_FREE)]),
        // std reads and writes sockets with these. Out-of-band data has had flaws of its own.
        (libc::SYS_recvfrom, &[is(3, 0)]),
        (libc::SYS_sendto, &[is(3, libc::MSG_NOSIGNAL)]),
        // Without the flags for private futexes and for the clock.
        (libc::SYS_futex, &[(1, MaskedEq(0x7f), libc::FUTEX_WAIT as u64)]),
        (libc::SYS_futex, &[(1, MaskedEq(0x7f), libc::FUTEX_WAKE as u64)]),
        (libc::SYS_futex, &[(1, MaskedEq(0x7f), libc::FUTEX_WAIT_BITSET as u64)]),
        // The clocks that have a name, and not those of other processes.
        (libc::SYS_clock_gettime, &[(0, Le, libc::CLOCK_TAI as u64)]),
        // About itself.
        (libc::SYS_sched_getaffinity, &[is(0, 0)]),
        // std asks whether a descriptor is open before it closes it, in builds with assertions.
        (libc::SYS_fcntl, &[is(1, libc::F_GETFD)]),
        // `abort`, which is how a program ends that cannot allocate.
        (libc::SYS_tgkill, &[(0, Eq, u64::from(std::process::id())), is(2, libc::SIGABRT)]),
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    for (call, conditions) in conditional {
        let condition = |(argument, compared, with): &Condition| {
            SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, compared.clone(), *with)
        };
        let conditions = conditions.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    }
    program(rules, SeccompAction::KillProcess, SeccompAction::Allow)
}

/// The filter that refuses files: the C library opens one of /proc before it gives memory back, and goes on without.
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
