//! Names of containers: each a label of DNS, since it is found there.

use aws_lc_rs::rand;

use crate::{Failure, Result};

/// The longest label of a name, in bytes (RFC 1035, section 2.3.4).
const LABEL: usize = 63;
/// The longest host name that the kernel takes, in bytes (`__NEW_UTS_LEN` of linux/utsname.h).
const HOST: usize = 64;
/// How often a name is made up before that is given up.
const ATTEMPTS: usize = 64;

/// What lies in a mountain.
const WORDS: [&str; 32] = [
    "agate", "amber", "basalt", "beryl", "chalk", "chert", "cobalt", "copper", "coral", "flint", "garnet", "gneiss",
    "granite", "gypsum", "jade", "jasper", "lapis", "marble", "mica", "nickel", "onyx", "opal", "pumice", "pyrite",
    "quartz", "ruby", "schist", "silver", "slate", "topaz", "tuff", "zircon",
];

/// Whether a container may have this name.
///
/// # Errors
/// The sentence that says what a name is.
pub(super) fn check(name: &str) -> Result<()> {
    if is_label(name) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{name:?} is no name for a container: use 1 to {LABEL} of a to z, 0 to 9 and '-', with no '-' at either end"
    )))
}

/// Whether this may be the name of the host inside.
///
/// # Errors
/// The sentence that says what a host name is.
pub(super) fn check_host(name: &str) -> Result<()> {
    if name.len() <= HOST && name.split('.').all(|label| is_label(&label.to_ascii_lowercase())) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{name:?} is no host name: use letters, digits, '-' and '.', {HOST} at most and {LABEL} between dots, with no '-' or '.' at either end"
    )))
}

/// Whether this is a label of DNS.
pub(in crate::container) fn is_label(text: &str) -> bool {
    (1..=LABEL).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A name that nobody has, such as `garnet-4711`.
///
/// # Errors
/// There is no random number, or all that were tried are taken.
pub(super) fn invent(is_taken: impl Fn(&str) -> bool) -> Result<String> {
    for _ in 0..ATTEMPTS {
        let number = random()?;
        let word = WORDS.get((number % WORDS.len() as u64) as usize).copied().unwrap_or("adit");
        let name = format!("{word}-{}", 1000 + number / WORDS.len() as u64 % 9000);
        if !is_taken(&name) {
            return Ok(name);
        }
    }
    Err(Failure::failed("no free name was found; give one with `--name`"))
}

/// A number that tells a container from all others, as 16 hexadecimal digits.
///
/// # Errors
/// There is no random number.
pub(super) fn id() -> Result<String> {
    Ok(format!("{:016x}", random()?))
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| Failure::failed("the random generator failed"))?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_labels() {
        for name in ["a", "web", "web-1", "1", &"x".repeat(63)] {
            check(name).unwrap();
        }
        for name in ["", "-a", "a-", "Web", "a.b", "a_b", "../a", "a/b", "é", "a b", "a\n", &"x".repeat(64)] {
            let failure = check(name).unwrap_err();
            assert!(failure.exit_code() == 2 && failure.sentence().contains("'-'"), "{name:?}: {failure}");
        }
    }

    #[test]
    fn host_names_may_have_several_labels() {
        for name in ["web", "web.example.org", "WEB", "1-2.x", &"x".repeat(63)] {
            check_host(name).unwrap();
        }
        for name in ["", ".", "a.", ".a", "a..b", "a/b", "-a", "a.-b", &"x.".repeat(33), &"x".repeat(64)] {
            assert!(check_host(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_made_up_is_a_name_that_nobody_has() {
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let name = invent(|name| seen.contains(name)).unwrap();
            check(&name).unwrap();
            assert!(seen.insert(name));
        }
        assert!(invent(|_| true).unwrap_err().sentence().contains("--name"));
        assert_ne!(id().unwrap(), id().unwrap());
    }

    proptest! {
        #[test]
        fn no_name_leaves_its_directory(name in "\\PC{0,70}") {
            if check(&name).is_ok() {
                prop_assert!(!name.contains(['/', '.', '\0', ' ']));
            }
        }
    }
}
