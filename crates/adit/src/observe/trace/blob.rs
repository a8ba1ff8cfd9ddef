//! What one host hands to another of a trace, in few bytes: hosts, places and reports as JSON, observations as records that refer to them.
//!
//! ```text
//! length of the JSON (u32) | JSON | records, each:
//! host u8 | place u16 | probe u32 | at i64 | size u32 | segments u16 | segment size u16 | checksum u8 | flag u8 [receiver u32 counter u64] | length u8 head
//! ```
//! All numbers are little-endian.

use serde::{Deserialize, Serialize};

use super::observation::{Checksum, HostReport, MAX_HEAD, Observation, Outer, Place};

/// Bytes of a blob at most, here and there.
pub(super) const MAX_BLOB: usize = 256 << 10;

/// Bytes of a head that travel: headers of all layers, and the stamp.
const HEAD: usize = 128;

/// Bytes of a host's or device's name at most: every record has a copy.
const NAME: usize = 255;

/// Records that are read at most.
const MOST: usize = 8192;

/// What was seen, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gathered {
    /// In any order.
    pub observations: Vec<Observation>,
    /// One of each host, the one that gathered first.
    pub reports: Vec<HostReport>,
}

#[derive(Serialize, Deserialize)]
struct Preface {
    hosts: Vec<String>,
    places: Vec<Place>,
    reports: Vec<HostReport>,
}

/// Writes it; what does not fit counts as lost on the first host.
pub(super) fn pack(gathered: &Gathered) -> Vec<u8> {
    let (mut hosts, mut places) = (Vec::<String>::new(), Vec::<Place>::new());
    let (mut records, mut left_out) = (Vec::new(), 0);
    for seen in &gathered.observations {
        if records.len() > MAX_BLOB / 2 {
            left_out += 1;
            continue;
        }
        let (Ok(host), Ok(place)) =
            (u8::try_from(index(&mut hosts, &seen.host)), u16::try_from(index(&mut places, &seen.place)))
        else {
            left_out += 1;
            continue;
        };
        records.push(host);
        records.extend(place.to_le_bytes());
        records.extend(seen.probe.to_le_bytes());
        records.extend(seen.at.to_le_bytes());
        records.extend(seen.size.to_le_bytes());
        records.extend(seen.segments.to_le_bytes());
        records.extend(seen.segment_size.to_le_bytes());
        records.push(match seen.checksum {
            Checksum::Complete => 0,
            Checksum::Partial => 1,
            Checksum::Unknown => 2,
        });
        records.push(seen.outer.is_some().into());
        if let Some(Outer { receiver, counter }) = seen.outer {
            records.extend(receiver.to_le_bytes());
            records.extend(counter.to_le_bytes());
        }
        let head = seen.head.get(..HEAD).unwrap_or(&seen.head);
        records.push(head.len() as u8);
        records.extend(head);
    }
    let mut reports = gathered.reports.clone();
    if let Some(first) = reports.first_mut() {
        first.lost_records += left_out;
    }
    let mut preface = serde_json::to_vec(&Preface { hosts, places, reports }).unwrap_or_default();
    if preface.len() + records.len() + 4 > MAX_BLOB {
        // Reports of a host with a thousand devices, say: what is known of places goes with them.
        (preface, records) = (b"{\"hosts\":[],\"places\":[],\"reports\":[]}".to_vec(), Vec::new());
    }
    [&(preface.len() as u32).to_le_bytes()[..], &preface, &records].concat()
}

fn index<T: PartialEq + Clone>(all: &mut Vec<T>, one: &T) -> usize {
    all.iter().position(|known| known == one).unwrap_or_else(|| {
        all.push(one.clone());
        all.len() - 1
    })
}

/// Reads it; none if it is not what [`pack`] writes.
pub(super) fn unpack(blob: &[u8]) -> Option<Gathered> {
    let mut reader = Reader(blob.get(..blob.len().min(MAX_BLOB))?);
    let length = u32::from_le_bytes(reader.array()?) as usize;
    let preface: Preface = serde_json::from_slice(reader.take(length)?).ok()?;
    let is_long = |place: &Place| matches!(place, Place::Device { name, .. } if name.len() > NAME);
    if preface.hosts.iter().any(|host| host.len() > NAME) || preface.places.iter().any(is_long) {
        return None;
    }
    let mut observations = Vec::new();
    while !reader.0.is_empty() && observations.len() < MOST {
        let [host] = reader.array()?;
        let place = u16::from_le_bytes(reader.array()?);
        let mut seen = Observation {
            host: preface.hosts.get(usize::from(host))?.clone(),
            place: preface.places.get(usize::from(place))?.clone(),
            probe: u32::from_le_bytes(reader.array()?),
            at: i64::from_le_bytes(reader.array()?),
            size: u32::from_le_bytes(reader.array()?),
            segments: u16::from_le_bytes(reader.array()?),
            segment_size: u16::from_le_bytes(reader.array()?),
            checksum: match reader.array()? {
                [0] => Checksum::Complete,
                [1] => Checksum::Partial,
                _ => Checksum::Unknown,
            },
            outer: None,
            head: Vec::new(),
        };
        if reader.array()? == [1] {
            let receiver = u32::from_le_bytes(reader.array()?);
            seen.outer = Some(Outer { receiver, counter: u64::from_le_bytes(reader.array()?) });
        }
        let [length] = reader.array()?;
        let head = reader.take(length.into())?;
        seen.head = head.get(..MAX_HEAD).unwrap_or(head).to_vec();
        observations.push(seen);
    }
    Some(Gathered { observations, reports: preface.reports })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::observation::{DeviceKind, Direction, Layer, Step};
    use super::*;

    fn observation() -> impl Strategy<Value = Observation> {
        let device = ("[a-z]{1,8}", any::<u32>(), any::<bool>()).prop_map(|(name, index, out)| Place::Device {
            name,
            index,
            kind: DeviceKind::Veth,
            layer: Layer::Frames,
            direction: if out { Direction::Out } else { Direction::In },
        });
        let worker = any::<u16>().prop_map(|number| Place::Worker { number, step: Step::Opened });
        let checksum = prop::sample::select(vec![Checksum::Complete, Checksum::Partial, Checksum::Unknown]);
        let outer = prop::option::of((any::<u32>(), any::<u64>()));
        let rest = ("[a-z]{0,9}", any::<[u32; 2]>(), any::<i64>(), any::<[u16; 2]>());
        let head = prop::collection::vec(any::<u8>(), 0..=HEAD);
        (prop_oneof![device, worker], checksum, outer, rest, head).prop_map(
            |(place, checksum, outer, (host, [probe, size], at, [segments, segment_size]), head)| Observation {
                host,
                probe,
                at,
                place,
                size,
                segments,
                segment_size,
                checksum,
                outer: outer.map(|(receiver, counter)| Outer { receiver, counter }),
                head,
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(observations in prop::collection::vec(observation(), 0..40)) {
            let report = HostReport { host: "a".into(), permitted: true, ..HostReport::default() };
            let gathered = Gathered { observations, reports: vec![report] };
            prop_assert_eq!(unpack(&pack(&gathered)), Some(gathered));
        }

        #[test]
        fn any_bytes_are_something_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in any::<u16>()) {
            let _ = unpack(&bytes);
            let whole = pack(&Gathered::default());
            let cut = usize::from(cut) % whole.len();
            prop_assert_eq!(unpack(&whole[..cut]), None);
        }
    }

    #[test]
    fn too_much_is_left_out_and_counted() {
        let one = Observation {
            host: "h".into(),
            probe: 0,
            at: 0,
            place: Place::Worker { number: 0, step: Step::Read },
            size: 1,
            segments: 1,
            segment_size: 0,
            checksum: Checksum::Complete,
            outer: None,
            head: vec![0; HEAD],
        };
        let gathered = Gathered { observations: vec![one; 4096], reports: vec![HostReport::default()] };
        let packed = pack(&gathered);
        assert!(packed.len() <= MAX_BLOB);
        let back = unpack(&packed).unwrap();
        assert_eq!(back.observations.len() as u64 + back.reports[0].lost_records, 4096);
    }
}
