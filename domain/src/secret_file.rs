//! Who may read a file that holds a secret.

/// Whether a file of this mode and owner is private enough: 0600 or tighter, or 0640 or tighter when it is root's. That
/// is PostgreSQL's rule for its key; the latter is how Kubernetes mounts a secret for a process that is not root.
#[must_use]
pub fn is_private(mode: u32, owner: u32) -> bool {
    let forbidden = if owner == 0 { 0o037 } else { 0o077 };
    mode & forbidden == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_its_owners_or_a_group_of_roots() {
        let (root, somebody) = (0, 1000);
        for (mode, owner) in
            [(0o600, somebody), (0o400, somebody), (0o600, root), (0o640, root), (0o440, root)]
        {
            assert!(is_private(mode, owner), "{mode:o} of {owner}");
        }
        for mode in [0o640, 0o440, 0o610, 0o620, 0o604, 0o644] {
            assert!(!is_private(mode, somebody), "{mode:o} of somebody");
        }
        for mode in [0o644, 0o660, 0o650, 0o604, 0o602, 0o666] {
            assert!(!is_private(mode, root), "{mode:o} of root");
        }
    }
}
