//! Bugs of the kernel in segmentation: super-packets that are written into a device of a namespace made for it, and come out of another byte for
//! byte as ours would.

use super::super::{Check, Facts, Finding, Kind};

static WRONG: Kind = Kind::broken("gso-wrong", "this kernel splits super-packets wrongly, or loses them");
static UNSEEN: Kind = Kind::unseen("gso-unseen", "the kernel's segmentation was not tried");

/// Segmentation.
pub(in super::super) const CHECK: Check = Check {
    id: "gso",
    title: "the kernel splits super-packets as it should (tried with real packets)",
    kinds: &[&WRONG, &UNSEEN],
    check,
};

fn check(facts: &Facts) -> Vec<Finding> {
    let tried = match &facts.host.segmentation {
        Ok(tried) => tried,
        Err(why) => {
            let finding =
                UNSEEN.found("whether the kernel splits super-packets as it should was not tried").seen(why.clone());
            return vec![if facts.host.root { finding } else { finding.run("sudo adit doctor") }];
        }
    };
    let wrong: Vec<String> =
        tried.iter().filter_map(|one| Some(format!("{}: {}", one.what, one.wrong.as_ref()?))).collect();
    if wrong.is_empty() {
        return Vec::new();
    }
    let mut finding = WRONG.found("this kernel splits super-packets wrongly").advise(
        "until another kernel runs: write `offload = false` under [transport] in the configuration, and start the daemon again",
    );
    finding.evidence = wrong;
    vec![finding]
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::Segmentation;
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn only_what_came_out_wrong_is_told() {
        let one = |what: &str, wrong: Option<&str>| Segmentation { what: what.into(), wrong: wrong.map(str::to_owned) };
        let good = found(&CHECK, |facts| facts.host.segmentation = Ok(vec![one("TCP over IPv4", None)]));
        assert_eq!(ids(&good), [""; 0]);
        let bad = found(&CHECK, |facts| {
            facts.host.segmentation =
                Ok(vec![one("TCP over IPv4", None), one("UDP over IPv6", Some("segment 3 differs"))]);
        });
        assert_eq!(
            (ids(&bad), bad[0].evidence.clone()),
            (vec!["gso-wrong"], vec!["UDP over IPv6: segment 3 differs".into()])
        );
        assert_eq!(ids(&found(&CHECK, |f| f.host.segmentation = Err("no right".into()))), ["gso-unseen"]);
    }
}
