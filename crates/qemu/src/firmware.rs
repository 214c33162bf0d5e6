//! Where this computer has its UEFI firmware.
//!
//! Invariant: the code is used where it is and only read; the variables are copied once and then belong to the
//! machine, so that what a guest writes there stays with it.

use std::{fs, path::Path};

use super::{
    error::{Error, Result},
    places::write_whole,
    spec::Firmware,
};

/// Code and empty variables, as the distributions name them. The large builds come first: new firmware does not
/// fit the small ones. None of these demands signed boot loaders.
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

/// Finds the UEFI firmware below `root` (`/`, outside tests), and makes sure that the machine has variables of its
/// own at `vars`: made from the empty ones the first time, left alone from then on.
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
        // Not `fs::copy`: the copy is to be writable whatever the original is.
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
