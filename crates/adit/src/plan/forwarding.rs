//! Who forwards: what the kernel has to be told so that packets get from containers into the tunnel, and out of it, and no more.
//!
//! IPv4 has a switch per device (`net.ipv4.conf.DEVICE.forwarding`), which says whether what comes in by it may go on. It is set on our
//! device, on those that lead into our subnets, and where the network is masqueraded on those by which the world is reached, since answers
//! come in there. The switch of all devices, which is `net.ipv4.ip_forward`, is left alone: where it is on, nothing is to be done.
//!
//! IPv6 has such a switch since Linux 6.17 (`force_forwarding`). Before, only that of all devices forwards
//! (`net.ipv6.conf.all.forwarding`). A router does not believe other routers, so that cards which did go on only with `accept_ra=2`.
//!
//! What a setting was is written down before it is changed, and comes back when nobody needs it any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Territory;

/// A setting of the kernel's that is changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Setting {
    /// `net.ipv4.conf.DEVICE.forwarding`
    Forward4(String),
    /// `net.ipv6.conf.DEVICE.force_forwarding`
    Forward6(String),
    /// `net.ipv6.conf.DEVICE.accept_ra`
    AcceptRouters(String),
    /// `net.ipv6.conf.all.forwarding`
    ForwardAll6,
    /// `net.ipv6.conf.DEVICE.forwarding`: whether we are a router there, without which nobody is answered for.
    Router6(String),
    /// `net.ipv6.conf.DEVICE.proxy_ndp`
    Answer6(String),
}

impl Setting {
    /// Its components under `/proc/sys`.
    pub fn path(&self) -> [&str; 5] {
        match self {
            Self::Forward4(device) => ["net", "ipv4", "conf", device, "forwarding"],
            Self::Forward6(device) => ["net", "ipv6", "conf", device, "force_forwarding"],
            Self::AcceptRouters(device) => ["net", "ipv6", "conf", device, "accept_ra"],
            Self::ForwardAll6 => ["net", "ipv6", "conf", "all", "forwarding"],
            Self::Router6(device) => ["net", "ipv6", "conf", device, "forwarding"],
            Self::Answer6(device) => ["net", "ipv6", "conf", device, "proxy_ndp"],
        }
    }
}

/// The switches as they are. A setting that this host does not have is not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    /// Whether IPv4 is forwarded from any device to any other.
    pub all4: bool,
    /// What settings are now.
    pub values: BTreeMap<Setting, u8>,
    /// The devices by which packets of the network come in, per family.
    pub ways: [Vec<String>; 2],
    /// The devices behind which containers look for IPv6 clients.
    pub answering6: Vec<String>,
    /// All devices that may hear of IPv6 routers.
    pub hearing: Vec<String>,
    /// Whether another bridge has IPv6, whose owner may rely on forwarding by now.
    pub others6: bool,
}

impl Switches {
    fn get(&self, setting: &Setting) -> Option<u8> {
        self.values.get(setting).copied()
    }
}

/// What has to be set, and to what, whether or not it is so; in the order in which it is set.
fn needed(territory: &Territory, switches: &Switches, settings: &BTreeMap<Setting, u8>) -> Vec<(Setting, u8)> {
    let mut needed = Vec::new();
    let [ways4, ways6] = &switches.ways;
    if territory.has(false) && !switches.all4 {
        needed.extend(ways4.iter().map(|device| (Setting::Forward4(device.clone()), 1)));
    }
    if territory.has(true) {
        let on = switches.get(&Setting::ForwardAll6);
        let ours = settings.contains_key(&Setting::ForwardAll6);
        let each: Vec<_> = ways6.iter().map(|device| Setting::Forward6(device.clone())).collect();
        if each.iter().any(|setting| switches.values.contains_key(setting)) && !ours {
            if on != Some(1) {
                needed.extend(each.into_iter().map(|setting| (setting, 1)));
            }
        } else if on == Some(0) || ours {
            let hears = |device: &&String| {
                let setting = Setting::AcceptRouters((*device).clone());
                switches.get(&setting) == Some(1) || settings.contains_key(&setting)
            };
            let hearing = switches.hearing.iter().filter(hears);
            needed.extend(hearing.map(|device| (Setting::AcceptRouters(device.clone()), 2)));
            needed.push((Setting::ForwardAll6, 1));
        }
    }
    for device in &switches.answering6 {
        needed.extend([Setting::Router6(device.clone()), Setting::Answer6(device.clone())].map(|setting| (setting, 1)));
    }
    needed.retain(|(setting, _)| switches.values.contains_key(setting));
    needed
}

/// The settings to change, to what, and what they are. `settings` are those that were changed already, and what they were.
pub(super) fn changes(
    territory: Option<&Territory>,
    switches: &Switches,
    settings: &BTreeMap<Setting, u8>,
) -> Vec<(Setting, u8, u8)> {
    let needed = territory.map_or_else(Vec::new, |territory| needed(territory, switches, settings));
    let change = |(setting, to): (Setting, u8)| {
        let was = switches.get(&setting)?;
        (was != to).then_some((setting, to, was))
    };
    let obsolete = settings.iter().filter(|(setting, _)| !needed.iter().any(|(needed, _)| needed == *setting));
    let back: Vec<_> = obsolete
        .filter(|(setting, _)| match setting {
            // Somebody has all of them forward by now: without ours it would be another state than theirs.
            Setting::Forward4(_) => !switches.all4,
            Setting::ForwardAll6 => !switches.others6,
            Setting::AcceptRouters(_) => !switches.others6,
            Setting::Router6(_) => switches.get(&Setting::ForwardAll6) != Some(1),
            Setting::Forward6(_) | Setting::Answer6(_) => true,
        })
        // Only what is as we left it.
        .filter(|(setting, _)| {
            let set = if matches!(setting, Setting::AcceptRouters(_)) { 2 } else { 1 };
            switches.get(setting) == Some(set)
        })
        .map(|(setting, was)| (setting.clone(), *was))
        .collect();
    // Routers are heard of again before forwarding ends, and until it does.
    needed.into_iter().chain(back.into_iter().rev()).filter_map(change).collect()
}

/// Notes what is about to be changed; answers whether that is news.
pub(super) fn claim(territory: Option<&Territory>, switches: &Switches, settings: &mut BTreeMap<Setting, u8>) -> bool {
    let Some(territory) = territory else { return false };
    let before = settings.len();
    for (setting, to) in needed(territory, switches, settings) {
        if let Some(was) = switches.get(&setting).filter(|was| *was != to) {
            settings.entry(setting).or_insert(was);
        }
    }
    settings.len() != before
}

/// Forgets what is not needed any more, once it was taken back; answers whether there was such.
pub(super) fn keep(territory: Option<&Territory>, switches: &Switches, settings: &mut BTreeMap<Setting, u8>) -> bool {
    let needed = territory.map_or_else(Vec::new, |territory| needed(territory, switches, settings));
    let before = settings.len();
    settings.retain(|setting, _| needed.iter().any(|(needed, _)| needed == setting));
    settings.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn territory() -> Territory {
        let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).into();
        Territory {
            networks: nets(["10.42.0.0/16", "fd42::/48"]),
            subnets: nets(["10.42.7.0/24", "fd42:0:0:7::/64"]),
            masquerade: true,
            forward: true,
            clients: Vec::new(),
        }
    }

    fn switches(force: bool) -> Switches {
        let ways = vec!["adit0".to_owned(), "br0".into(), "eth0".into()];
        let mut values = BTreeMap::from([(Setting::ForwardAll6, 0)]);
        for device in &ways {
            values.insert(Setting::Forward4(device.clone()), 0);
            values.insert(Setting::AcceptRouters(device.clone()), u8::from(device == "eth0"));
            if force {
                values.insert(Setting::Forward6(device.clone()), 0);
            }
        }
        let hearing = vec!["eth0".into(), "br0".into()];
        Switches { values, ways: [ways.clone(), ways], hearing, ..Switches::default() }
    }

    /// Does what is to be done, as often as there is something; what was changed meanwhile stays.
    fn settle(territory: Option<&Territory>, switches: &mut Switches, settings: &mut BTreeMap<Setting, u8>) {
        for round in 0..3 {
            claim(territory, switches, settings);
            let steps = changes(territory, switches, settings);
            assert!(round == 0 || steps.is_empty(), "{steps:?}");
            for (setting, to, was) in steps {
                assert_eq!(switches.values.insert(setting, to), Some(was));
            }
            keep(territory, switches, settings);
        }
    }

    #[test]
    fn each_way_forwards_and_all_is_taken_back() {
        for force in [true, false] {
            let before = switches(force);
            let (mut now, mut settings) = (before.clone(), BTreeMap::new());
            settle(Some(&territory()), &mut now, &mut settings);
            for device in ["adit0", "br0", "eth0"] {
                assert_eq!(now.get(&Setting::Forward4(device.into())), Some(1));
                assert_eq!(now.get(&Setting::Forward6(device.into())), force.then_some(1));
            }
            assert_eq!(now.get(&Setting::ForwardAll6), Some(u8::from(!force)));
            // The card goes on hearing of routers; what did not hear of them before does not begin to.
            assert_eq!(now.get(&Setting::AcceptRouters("eth0".into())), Some(if force { 1 } else { 2 }));
            assert_eq!(now.get(&Setting::AcceptRouters("br0".into())), Some(0));
            // Somebody switches it off, and a device comes and goes.
            now.values.insert(Setting::Forward4("eth0".into()), 0);
            settle(Some(&territory()), &mut now, &mut settings);
            assert_eq!(now.get(&Setting::Forward4("eth0".into())), Some(1));
            now.ways.iter_mut().for_each(|ways| ways.retain(|way| way != "br0"));
            settle(Some(&territory()), &mut now, &mut settings);
            assert_eq!(now.get(&Setting::Forward4("br0".into())), Some(0));
            settle(None, &mut now, &mut settings);
            assert_eq!((now.values, settings.len()), (before.values, 0));
        }
    }

    #[test]
    fn clients_are_answered_for_while_there_are_some() {
        let mut now = switches(true);
        now.values.insert(Setting::Router6("br0".into()), 0);
        now.values.insert(Setting::Answer6("br0".into()), 0);
        let (before, mut settings) = (now.clone(), BTreeMap::new());
        now.answering6 = vec!["br0".into()];
        settle(Some(&territory()), &mut now, &mut settings);
        for setting in [Setting::Router6("br0".into()), Setting::Answer6("br0".into())] {
            assert_eq!(now.get(&setting), Some(1));
        }
        now.answering6.clear();
        settle(Some(&territory()), &mut now, &mut settings);
        assert_eq!(now.get(&Setting::Answer6("br0".into())), Some(0));
        settle(None, &mut now, &mut settings);
        assert_eq!((now.values, settings.len()), (before.values, 0));
    }

    #[test]
    fn a_host_that_forwards_is_left_as_it_is() {
        let mut now = switches(false);
        now.all4 = true;
        now.values.values_mut().for_each(|value| *value = 1);
        let before = now.clone();
        let mut settings = BTreeMap::new();
        settle(Some(&territory()), &mut now, &mut settings);
        assert_eq!((now, settings.len()), (before, 0));
    }

    #[test]
    fn what_others_rely_on_by_now_stays() {
        for force in [true, false] {
            let (mut now, mut settings) = (switches(force), BTreeMap::new());
            settle(Some(&territory()), &mut now, &mut settings);
            // As Docker does when it starts.
            (now.all4, now.others6) = (true, true);
            now.values.iter_mut().for_each(|(setting, value)| match setting {
                Setting::Forward4(_) | Setting::ForwardAll6 => *value = 1,
                _ => {}
            });
            settle(None, &mut now, &mut settings);
            assert_eq!(now.get(&Setting::Forward4("eth0".into())), Some(1));
            assert_eq!(now.get(&Setting::ForwardAll6), Some(1));
            assert_eq!(now.get(&Setting::AcceptRouters("eth0".into())), Some(if force { 1 } else { 2 }));
            assert!(settings.is_empty());
        }
    }

    #[test]
    fn a_network_of_one_family_leaves_the_other_alone() {
        let mut four = territory();
        four.networks.pop();
        four.subnets.pop();
        let (mut now, mut settings) = (switches(false), BTreeMap::new());
        settle(Some(&four), &mut now, &mut settings);
        assert!(settings.keys().all(|setting| matches!(setting, Setting::Forward4(_))), "{settings:?}");
    }
}
