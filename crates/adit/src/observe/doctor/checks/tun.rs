//! `/dev/net/tun`: without it there is no device.

use super::super::{Check, Facts, Finding, Kind};

static UNUSABLE: Kind = Kind::broken("tun-unusable", "`/dev/net/tun` is not there, or cannot be opened");
static CLOSED: Kind =
    Kind::unseen("tun-closed", "this user may not open `/dev/net/tun`, which says nothing about root");

/// `/dev/net/tun`.
pub(in super::super) const CHECK: Check =
    Check { id: "tun", title: "`/dev/net/tun` is there and usable", kinds: &[&UNUSABLE, &CLOSED], check };

fn check(facts: &Facts) -> Vec<Finding> {
    let Err((errno, sentence)) = &facts.host.tun else { return Vec::new() };
    let finding = |kind: &'static Kind| kind.found("no TUN device can be made").seen(sentence.clone());
    vec![match *errno {
        libc::EACCES if !facts.host.root => finding(&CLOSED).run("sudo adit doctor"),
        libc::EACCES => finding(&UNUSABLE).run("chmod 0666 /dev/net/tun"),
        libc::EPERM => {
            finding(&UNUSABLE).advise("start the container with `--device /dev/net/tun --cap-add NET_ADMIN`")
        }
        _ => finding(&UNUSABLE)
            .run(facts.as_root("modprobe tun"))
            .advise("within a container: start it with `--device /dev/net/tun` instead"),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, ids};
    use super::*;

    #[test]
    fn each_cause_has_its_remedy() {
        for (errno, root, id, remedy) in [
            (libc::ENOENT, true, "tun-unusable", "modprobe tun"),
            (libc::ENODEV, true, "tun-unusable", "modprobe tun"),
            (libc::EACCES, true, "tun-unusable", "chmod"),
            (libc::EACCES, false, "tun-closed", "sudo adit doctor"),
            (libc::EPERM, true, "tun-unusable", "--device"),
        ] {
            let findings = found(&CHECK, |facts| {
                facts.host.root = root;
                facts.host.tun = Err((errno, "open /dev/net/tun: no".into()));
            });
            assert_eq!(ids(&findings), [id]);
            assert!(format!("{:?}", findings[0]).contains(remedy), "{findings:?}");
        }
    }
}
