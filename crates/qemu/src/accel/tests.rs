use std::path::PathBuf;

use super::*;

const QEMU: &str = "qemu-system-x86_64";

#[test]
fn the_boot_sector_is_what_its_source_says() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/accel/probe.S");
    let dir = tempfile::tempdir().unwrap();
    let [object, binary]: [PathBuf; 2] = ["probe.o", "probe.bin"].map(|name| dir.path().join(name));
    let run = |program: &str, args: &[&str], from: &Path, to: &Path| {
        let status = Command::new(program).args(args).arg("-o").args([to, from]).status();
        status.unwrap_or_else(|e| panic!("{program}: {e}; run scripts/setup")).success()
    };
    assert!(run("as", &["--64"], &source, &object));
    let args = ["-m", "elf_x86_64", "-Ttext=0x7c00", "--oformat", "binary"];
    assert!(run("ld", &args, &object, &binary));
    assert_eq!(fs::read(binary).unwrap(), probe::PROBE);
}

#[test]
fn the_boot_sector_runs_through_on_a_processor_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let finding = run_probe(Path::new(QEMU), dir.path(), "tcg", Duration::from_secs(60));
    assert_eq!(finding.expect("QEMU runs; scripts/setup installs it"), Finding::KvmWorks);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_guest_that_is_not_through_in_time_is_too_slow() {
    let dir = tempfile::tempdir().unwrap();
    let finding = run_probe(Path::new(QEMU), dir.path(), "tcg", Duration::from_millis(1));
    assert_eq!(finding.expect("QEMU runs; scripts/setup installs it"), Finding::TooSlow);
}

#[test]
fn an_accelerator_that_does_not_start_fails() {
    let dir = tempfile::tempdir().unwrap();
    let finding = run_probe(Path::new(QEMU), dir.path(), "xen", Duration::from_secs(60));
    assert_eq!(finding.expect("QEMU runs; scripts/setup installs it"), Finding::Fails);
}

#[test]
fn the_probe_ends_in_time_whatever_kvm_does_here() {
    let dir = tempfile::tempdir().unwrap();
    let finding =
        probe(Path::new(QEMU), dir.path(), PROBE_MAX).expect("QEMU runs; scripts/setup installs it");
    eprintln!("here: {finding:?}: {}", finding.explain());
    assert_eq!(finding.accel() == Accel::Kvm, finding == Finding::KvmWorks);
}

#[test]
fn a_missing_qemu_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let error = run_probe(&dir.path().join("no-qemu"), dir.path(), "tcg", PROBE_MAX).unwrap_err();
    assert!(matches!(error, Error::NotInstalled { .. }), "{error}");
}
