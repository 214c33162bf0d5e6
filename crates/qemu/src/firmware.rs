//! Finds the UEFI firmware of this computer.
//!
//! Invariant: the code is used in place and only read. The variables are copied once and then belong to the machine, so
//! that it keeps what a guest writes there.

use std::{fs, path::Path};

use bygone_sys::write_whole;

use super::{
    error::{Error, Result},
    spec::Firmware,
};

/// Code and empty variables, under the names that distributions use. The large builds come first, because newer
/// firmware does not fit into the small ones. None of them requires signed boot loaders.
const FILES: [(&str, &str); 9] = [
    // Debian, Ubuntu
    ("usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
    // Fedora, RHEL
    ("usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"),
    // Arch
    ("usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "usr/share/edk2-ovmf/x64/OVMF_VARS.fd"),
    // openSUSE
    ("usr/share/qemu/ovmf-x86_64-4m-code.bin", "usr/share/qemu/ovmf-x86_64-4m-vars.bin"),
    ("usr/share/qemu/ovmf-x86_64-code.bin", "usr/share/qemu/ovmf-x86_64-vars.bin"),
    // QEMU's own builds
    ("usr/share/qemu/edk2-x86_64-code.fd", "usr/share/qemu/edk2-i386-vars.fd"),
    ("usr/local/share/qemu/edk2-x86_64-code.fd", "usr/local/share/qemu/edk2-i386-vars.fd"),
];

/// Finds the UEFI firmware below `root` (`/`, outside tests) and makes sure that the machine has its own variables at
/// `vars`: copied from the empty ones the first time, unchanged from then on.
///
/// # Errors
/// [`Error::NoFirmware`]; [`Error::File`] when the variables cannot be copied.
pub fn uefi(root: &Path, vars: &Path) -> Result<Firmware> {
    let found = FILES.iter().map(|(code, empty)| (root.join(code), root.join(empty)));
    let Some((code, empty)) = found.into_iter().find(|(code, empty)| code.is_file() && empty.is_file())
    else {
        return Err(Error::NoFirmware { first: Path::new("/").join(FILES[0].0), others: FILES.len() - 1 });
    };
    if !vars.exists() {
        // Not `fs::copy`: the copy must be writable whatever the original's mode is.
        let copied = fs::read(&empty).and_then(|bytes| write_whole(vars, &bytes));
        copied.map_err(Error::file(vars))?;
    }
    Ok(Firmware::Uefi { code, vars: vars.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_copied_once_and_then_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path().join("usr/share/OVMF");
        fs::create_dir_all(&share).unwrap();
        fs::write(share.join("OVMF_CODE_4M.fd"), "code").unwrap();
        fs::write(share.join("OVMF_VARS_4M.fd"), "empty").unwrap();
        let vars = dir.path().join("uefi-vars.fd");

        let expected = Firmware::Uefi { code: share.join("OVMF_CODE_4M.fd"), vars: vars.clone() };
        assert_eq!(uefi(dir.path(), &vars).unwrap(), expected);
        assert_eq!(fs::read(&vars).unwrap(), b"empty");
        fs::write(&vars, "the guest's").unwrap();
        assert_eq!(uefi(dir.path(), &vars).unwrap(), expected);
        assert_eq!(fs::read(&vars).unwrap(), b"the guest's");
    }

    #[test]
    fn code_without_variables_is_passed_over_and_absence_is_said() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/share/OVMF")).unwrap();
        fs::write(dir.path().join("usr/share/OVMF/OVMF_CODE.fd"), "code").unwrap();
        let error = uefi(dir.path(), &dir.path().join("vars")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no UEFI firmware on this computer (looked for /usr/share/OVMF/OVMF_CODE_4M.fd and 8 other files)"
        );
        assert!(!dir.path().join("vars").exists());
    }
}
