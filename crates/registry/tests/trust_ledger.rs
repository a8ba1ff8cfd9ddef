//! The authority's books: tokens, names, keys, removals, and what a node may write by them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing test is to stop there")]

mod trust_bed;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use registry::schema::{NetworkConfig, Prefix, Subnets};
use registry::trust::{
    Admitted, Anchor, Ask, Authority, Bundle, Certificate, KEPT_BUNDLES, Ledger, LedgerError, LedgerPolicy, NodeKeys,
    Present, ROLE_REGISTRY, Record, Token, Tombstone, Wanted,
};
use trust_bed::{Node, authority, keys, lease_value, subnet};

const HOUR: Duration = Duration::from_secs(3600);

struct Books {
    _directory: tempfile::TempDir,
    ledger: Arc<Ledger>,
    now: SystemTime,
}

fn books() -> Books {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::create(&directory.path().join("authority"), authority()).unwrap());
    Books { _directory: directory, ledger, now: SystemTime::now() }
}

impl Books {
    fn path(&self) -> std::path::PathBuf {
        self._directory.path().join("authority")
    }

    fn token(&self, uses: u32) -> Token {
        self.ledger.create_token(vec!["192.0.2.1:7780".into()], [7; 32], HOUR, uses, self.now).unwrap()
    }

    fn admit(&self, token: &Token, name: &str, keys: &NodeKeys) -> Result<Admitted, LedgerError> {
        admit(&self.ledger, token, name, keys, self.now)
    }

    fn has_password(&self, admitted: &Admitted) -> bool {
        self.ledger.has_password(&admitted.credential.user, &admitted.credential.password).unwrap()
    }
}

fn admit(
    ledger: &Ledger,
    token: &Token,
    name: &str,
    keys: &NodeKeys,
    now: SystemTime,
) -> Result<Admitted, LedgerError> {
    let (record_key, sealed_key) = (keys.record_public(), keys.sealed_public());
    let ask = Ask {
        token_id: &token.id,
        token_secret: &token.secret,
        name,
        record_key: &record_key,
        sealed_key: &sealed_key,
    };
    ledger.admit(&ask, now)
}

fn sentence(outcome: Result<Admitted, LedgerError>) -> String {
    outcome.err().expect("was let in").to_string()
}

#[test]
fn t4_a_token_lets_one_node_in_and_a_stolen_one_says_who_used_it() {
    let books = books();
    let token = books.token(1);
    let joined = books.admit(&token, "paris", &keys(1)).unwrap();
    assert_eq!(joined.certificate, Certificate::open(&joined.certificate.encode(), &authority().anchor()).unwrap());
    assert_eq!((joined.certificate.serial, joined.certificate.name.as_str(), joined.again), (1, "paris", false));
    assert_eq!(joined.epoch, books.ledger.epoch().unwrap());
    assert!(books.has_password(&joined));
    let used = sentence(books.admit(&token, "mallory", &keys(2)));
    assert_eq!(used, "the token was already used by paris: ask for another with `adit token create`");
    assert!(books.ledger.look(&token.id, &token.secret, books.now).is_err());
    assert_eq!(books.ledger.members().unwrap().len(), 1);
}

#[test]
fn t4_an_answer_that_got_lost_is_given_again_to_the_same_node_only() {
    let books = books();
    let token = books.token(1);
    let first = books.admit(&token, "paris", &keys(1)).unwrap();
    let later = books.now + 2 * HOUR;
    let again = admit(&books.ledger, &token, "paris", &keys(1), later).unwrap();
    assert_eq!((again.certificate.clone(), again.again), (first.certificate.clone(), true));
    assert!(books.has_password(&again) && !books.has_password(&first), "one password at a time");
    assert!(sentence(books.admit(&token, "paris", &keys(2))).contains("already used by paris"));
    assert!(sentence(books.admit(&token, "rome", &keys(1))).contains("already used by paris"));
    // With another token: the same node may, under its own name.
    let other = books.token(1);
    assert!(sentence(books.admit(&other, "rome", &keys(1))).contains("already joined as paris"));
    assert_eq!(books.admit(&other, "paris", &keys(1)).unwrap().certificate, first.certificate);
    // A removed node does not come back by asking again.
    books.ledger.remove("paris", true).unwrap();
    assert!(sentence(books.admit(&token, "paris", &keys(1))).contains("already used"));
    assert!(sentence(books.admit(&books.token(1), "paris", &keys(1))).contains("was removed"));
}

#[test]
fn t4_wrong_expired_and_revoked_tokens_let_nobody_in() {
    let books = books();
    let token = books.token(3);
    let wrong = Token { secret: zeroize::Zeroizing::new([9; 32]), ..token.clone() };
    let unknown = Token { id: [9; 8], ..token.clone() };
    for bad in [&wrong, &unknown] {
        assert!(sentence(books.admit(bad, "a", &keys(1))).contains("not known here"));
        assert!(books.ledger.look(&bad.id, &bad.secret, books.now).is_err());
    }
    books.ledger.look(&token.id, &token.secret, books.now).unwrap();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        books.admit(&token, name, &keys(10 + number as u64)).unwrap();
    }
    let used = sentence(books.admit(&token, "d", &keys(20)));
    assert!(used.contains("used by a, b, c"), "{used}");
    let late = books.token(1);
    let expired = admit(&books.ledger, &late, "d", &keys(20), books.now + HOUR);
    assert!(sentence(expired).contains("has expired"));
    books.ledger.revoke_token(&late.id_text()).unwrap();
    assert!(sentence(books.admit(&late, "d", &keys(20))).contains("was revoked"));
    assert!(books.ledger.revoke_token("0000").is_err());
    let listed = books.ledger.tokens(books.now).unwrap();
    assert_eq!(
        listed.iter().map(|token| (token.used_by.len(), token.is_open)).collect::<Vec<_>>(),
        [(3, false), (0, false)]
    );
    let text = fs::read_to_string(books.path().join("ledger.json")).unwrap();
    for secret in [&token.secret, &late.secret] {
        use base64::Engine;
        let secret = base64::engine::general_purpose::STANDARD.encode(secret.as_ref());
        assert!(!text.contains(&secret[..12]), "a token's secret is kept");
    }
}

#[test]
fn t4_one_of_many_at_once_uses_a_token_up() {
    let books = books();
    let token = books.token(1);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..8)
            .map(|number| {
                // Each with files of its own, as another process would.
                let ledger = Ledger::open(&books.path()).unwrap();
                let (token, now) = (&token, books.now);
                scope.spawn(move || admit(&ledger, token, &format!("n{number}"), &keys(100 + number), now).is_ok())
            })
            .collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|let_in| **let_in).count(), 1);
    assert_eq!(books.ledger.members().unwrap().len(), 1);
}

#[test]
fn names_and_keys_are_given_once() {
    let books = books();
    books.admit(&books.token(1), "paris", &keys(1)).unwrap();
    let refused = |name: &str, record: u64, sealed: u64| {
        let token = books.token(1);
        let (record_key, sealed_key) = (keys(record).record_public(), keys(sealed).sealed_public());
        let ask = Ask {
            token_id: &token.id,
            token_secret: &token.secret,
            name,
            record_key: &record_key,
            sealed_key: &sealed_key,
        };
        let outcome = sentence(books.ledger.admit(&ask, books.now));
        let open = books.ledger.tokens(books.now).unwrap();
        assert!(open.last().unwrap().is_open, "a refusal uses nothing up");
        outcome
    };
    assert!(refused("paris", 2, 2).contains("already a node called paris"));
    assert!(refused("PARIS", 2, 2).contains("already a node called paris"));
    assert!(refused("rome", 1, 2).contains("keys are those of paris"));
    assert!(refused("rome", 2, 1).contains("keys are those of paris"));
    assert!(refused("a b", 2, 2).contains("\"name\""));
    let low_order = [0; 32];
    let token = books.token(1);
    let ask = Ask {
        token_id: &token.id,
        token_secret: &token.secret,
        name: "rome",
        record_key: &keys(2).record_public(),
        sealed_key: &low_order,
    };
    assert!(sentence(books.ledger.admit(&ask, books.now)).contains("sealed key"));
    assert_eq!(books.ledger.members().unwrap().len(), 1);
}

#[test]
fn t5_a_removal_is_numbered_takes_the_password_and_makes_a_secret_for_the_others() {
    let books = books();
    let home = keys(50);
    let home_keys = (home.record_public(), home.sealed_public());
    let certificate = books.ledger.certify("home", home_keys, ROLE_REGISTRY, books.now).unwrap();
    assert_eq!(books.ledger.certify("home", home_keys, ROLE_REGISTRY, books.now).unwrap(), certificate);
    let paris = books.admit(&books.token(1), "paris", &keys(1)).unwrap();
    let rome = books.admit(&books.token(1), "rome", &keys(2)).unwrap();
    let before = books.ledger.epoch().unwrap();
    assert!(books.ledger.remove("home", true).unwrap_err().to_string().contains("holds the registry"));
    assert!(books.ledger.remove("berlin", true).is_err());
    let removal = books.ledger.remove("paris", true).unwrap();
    let anchor = authority().anchor();
    assert_eq!(Tombstone::open(&removal.signed, &anchor).unwrap(), Tombstone { number: 1, serial: 2 });
    let (epoch, bundle) = removal.bundle.unwrap();
    let bundle = Bundle::open(&bundle, &anchor).unwrap();
    assert_eq!((epoch, bundle.epoch, bundle.removals, bundle.is_for(2)), (2, 2, 1, false));
    let id = authority().network_id();
    let after = books.ledger.epoch().unwrap();
    assert_eq!(bundle.unwrap(id, &keys(2), 3, Some(&rome.epoch)).unwrap(), after);
    assert_eq!(bundle.unwrap(id, &home, 1, Some(&before)).unwrap(), after);
    assert!(bundle.unwrap(id, &keys(1), 2, Some(&before)).is_err());
    assert!(!books.has_password(&paris) && books.has_password(&rome));
    assert!(!books.ledger.is_in(2).unwrap() && books.ledger.is_in(3).unwrap() && !books.ledger.is_in(9).unwrap());
    // Her name is free, her keys are not, and her serial is never used again.
    let again = books.admit(&books.token(1), "paris", &keys(3)).unwrap();
    assert_eq!(again.certificate.serial, 4);
    let second = books.ledger.remove("paris", false).unwrap();
    assert_eq!((second.tombstone, second.bundle), (Tombstone { number: 2, serial: 4 }, None));
    let tombstones = books.ledger.tombstones().unwrap();
    assert_eq!(tombstones, [(1, removal.signed), (2, second.signed)]);
    assert_eq!(Ledger::open(&books.path()).unwrap().tombstones().unwrap(), tombstones);
}

#[test]
fn t6_the_last_bundles_are_kept() {
    let books = books();
    let paris = books.admit(&books.token(1), "paris", &keys(1)).unwrap();
    let mut epoch = paris.epoch;
    for _ in 0..KEPT_BUNDLES + 3 {
        books.ledger.rotate().unwrap();
    }
    let kept = books.ledger.bundles().unwrap();
    let numbers: Vec<_> = kept.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (5..=KEPT_BUNDLES + 4).collect::<Vec<_>>());
    let fresh = books.admit(&books.token(1), "rome", &keys(2)).unwrap();
    assert_eq!(fresh.epoch, books.ledger.epoch().unwrap());
    // A node that was away goes through all of them that it missed.
    epoch.number = 4;
    let first = Bundle::open(&kept[0].1, &authority().anchor()).unwrap();
    assert!(first.unwrap(authority().network_id(), &keys(1), 1, Some(&epoch)).is_err(), "not with another secret");
}

#[test]
fn books_that_are_damaged_or_open_to_others_are_not_used() {
    let books = books();
    books.admit(&books.token(1), "paris", &keys(1)).unwrap();
    let file = books.path().join("ledger.json");
    let good = fs::read_to_string(&file).unwrap();
    assert!(matches!(Ledger::create(&books.path(), authority()), Err(LedgerError::File(_))), "made over");
    let opens = || Ledger::open(&books.path()).map(|_| ());
    for damaged in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace("\"next-serial\": 2", "\"next-serial\": 1"),
        good.replace("\"removals\": []", "\"removals\": [1]"),
    ] {
        assert_ne!(damaged, good);
        fs::write(&file, damaged).unwrap();
        assert!(opens().is_err());
    }
    fs::write(&file, &good).unwrap();
    opens().unwrap();
    for name in ["ledger.json", "authority.key"] {
        let path = books.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(opens().unwrap_err().to_string().contains("open to other users"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(books.path(), fs::Permissions::from_mode(0o750)).unwrap();
    assert!(opens().is_err());
    fs::set_permissions(books.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(mode(&books.path().join("authority.key")), 0o600);
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn root_has_one_password_at_a_time_and_nobody_else_has_it() {
    let books = books();
    let check = |user: &str, password: &str| books.ledger.has_password(user, password).unwrap();
    assert!(!check("root", ""));
    let first = books.ledger.renew_root().unwrap();
    assert!(check("root", &first.password) && !check("root", "x") && !check("node-1", &first.password));
    let second = books.ledger.renew_root().unwrap();
    assert!(check("root", &second.password) && !check("root", &first.password));
    for user in ["", "node-", "node-0", "node-01", "node-1", "root ", "admin"] {
        assert!(!check(user, &second.password), "{user}");
    }
    // Nothing of it is on disk: a host starts also on a full one.
    assert!(!Ledger::open(&books.path()).unwrap().has_password("root", &second.password).unwrap());
}

struct Rules {
    books: Books,
    policy: LedgerPolicy,
    paris: Node,
    rome: Node,
}

fn rules() -> Rules {
    let books = books();
    let node = |name: &str, number: u64| {
        let certificate = books.admit(&books.token(1), name, &keys(number)).unwrap().certificate;
        Node { keys: keys(number), certificate, anchor: authority().anchor() }
    };
    let (paris, rome) = (node("paris", 1), node("rome", 2));
    let network = NetworkConfig::parse(br#"{"Network":"10.42.0.0/16","Backend":{"Type":"adit"}}"#).unwrap();
    let policy = LedgerPolicy::new(Arc::clone(&books.ledger), Prefix::default(), network);
    Rules { books, policy, paris, rome }
}

impl Rules {
    fn put(
        &self,
        user: &str,
        subnets: Subnets,
        value: &[u8],
        lease: i64,
        present: Option<Present<'_>>,
    ) -> Result<(), String> {
        self.policy.may_write(user, &Prefix::default().subnet(&subnets), Wanted::Put { value, lease }, present)
    }
}

#[test]
fn a_node_writes_its_own_record_on_a_free_subnet_and_nothing_else() {
    let rules = rules();
    let Rules { paris, rome, policy, .. } = &rules;
    let (own, other) = (paris.value(2, subnet(2)), rome.value(2, subnet(2)));
    let present = |value| Some(Present { value, lease: 7 });
    let (older, newer) = (paris.value(1, subnet(2)), paris.value(3, subnet(2)));
    assert_eq!(rules.put("node-1", subnet(2), &own, 5, None), Ok(()));
    assert_eq!(rules.put("node-1", subnet(2), &own, 5, present(&own)), Ok(()));
    assert_eq!(rules.put("node-1", subnet(2), &own, 5, present(&older)), Ok(()));
    let refused = |outcome: Result<(), String>, word: &str| {
        let reason = outcome.unwrap_err();
        assert!(reason.contains(word), "{reason}");
    };
    refused(rules.put("node-1", subnet(2), &own, 5, present(&newer)), "record 3 stands there");
    refused(rules.put("node-1", subnet(2), &own, 5, present(&other)), "held by another");
    refused(rules.put("node-1", subnet(2), &own, 5, present(b"junk")), "held by another");
    refused(rules.put("node-1", subnet(2), &other, 5, None), "the record is that of node 2");
    refused(rules.put("node-1", subnet(3), &own, 5, None), "other subnets");
    refused(rules.put("node-1", subnet(2), &own, 0, None), "no reservation");
    refused(rules.put("node-1", subnet(2), b"{", 5, None), "the value");
    refused(rules.put("node-1", subnet(2), br#"{"PublicIP":"1.2.3.4"}"#, 5, None), "no signature");
    refused(rules.put("node-1", subnet(0), &paris.value(1, subnet(0)), 5, None), "not among the subnets");
    let wide = trust_bed::subnets("10.42.0.0-16");
    refused(rules.put("node-1", wide, &paris.value(1, wide), 5, None), "not among the subnets");
    refused(rules.put("node-9", subnet(2), &own, 5, None), "node 9 was removed");
    refused(rules.put("somebody", subnet(2), &own, 5, None), "no node of this network");
    assert_eq!(rules.put("root", subnet(2), b"anything", 0, None), Ok(()));

    let prefix = Prefix::default();
    let write = |key: &str, wanted| policy.may_write("node-1", key, wanted, None);
    let wanted = Wanted::Put { value: b"x", lease: 5 };
    for key in [
        prefix.config(),
        prefix.removed_at(1),
        prefix.epoch_at(2),
        prefix.release_of(2),
        format!("{}subnets/junk", prefix.all()),
        "/registry/other".into(),
        String::new(),
    ] {
        assert!(write(&key, wanted).is_err() && write(&key, Wanted::Delete).is_err(), "{key}");
    }
    let release = paris.release(2, subnet(2));
    assert_eq!(write(&prefix.release_of(1), Wanted::Put { value: &release, lease: 5 }), Ok(()));
    assert_eq!(write(&prefix.release_of(1), Wanted::Delete), Ok(()));
    assert!(write(&prefix.release_of(1), Wanted::Put { value: &rome.release(2, subnet(2)), lease: 5 }).is_err());
    let delete = |value: &[u8], lease| {
        policy.may_write("node-1", &prefix.subnet(&subnet(2)), Wanted::Delete, Some(Present { value, lease }))
    };
    assert_eq!(delete(&own, 7), Ok(()));
    assert!(delete(&other, 7).is_err() && delete(b"junk", 7).is_err() && delete(&own, 0).is_err());
}

#[test]
fn a_reservation_is_for_whom_it_names_and_stays_one() {
    let rules = rules();
    let Rules { paris, rome, .. } = &rules;
    let address = trust_bed::endpoint(paris.serial()).ip();
    let reservation = format!(r#"{{"PublicIP":"{address}","PublicIPv6":null}}"#).into_bytes();
    let present = Some(Present { value: &reservation, lease: 0 });
    let own = paris.value(2, subnet(2));
    assert_eq!(rules.put("node-1", subnet(2), &own, 0, present), Ok(()));
    assert!(rules.put("node-2", subnet(2), &rome.value(2, subnet(2)), 0, present).is_err());
    let held = Some(Present { value: &own, lease: 0 });
    assert_eq!(rules.put("node-1", subnet(2), &paris.value(3, subnet(2)), 0, held), Ok(()));
    // Left as it was, and for nobody else.
    assert_eq!(rules.put("node-1", subnet(2), &reservation, 0, held), Ok(()));
    assert!(rules.put("node-1", subnet(2), &reservation, 5, held).is_err());
    let other = br#"{"PublicIP":"198.51.100.1","PublicIPv6":null}"#;
    assert!(rules.put("node-1", subnet(2), other, 0, held).is_err());
    assert!(rules.put("node-2", subnet(2), &reservation, 0, held).is_err());
}

#[test]
fn what_a_removed_node_held_is_free_and_it_may_nothing() {
    let rules = rules();
    let Rules { books, paris, rome, policy } = &rules;
    books.ledger.remove("paris", false).unwrap();
    let stale = paris.value(2, subnet(2));
    let present = Some(Present { value: &stale, lease: 7 });
    assert_eq!(rules.put("node-2", subnet(2), &rome.value(2, subnet(2)), 5, present), Ok(()));
    assert!(rules.put("node-1", subnet(2), &stale, 5, None).unwrap_err().contains("was removed"));
    assert!(!policy.is_valid("node-1") && policy.is_valid("node-2") && policy.is_valid("root"));
    // It is told so by the authority, and nobody else is told anything.
    let farewell = policy.farewell("node-1").unwrap();
    let told = Tombstone::open(&farewell, &books.ledger.anchor()).unwrap();
    assert_eq!((told, books.ledger.tombstones().unwrap()), (Tombstone { number: 1, serial: 1 }, vec![(1, farewell)]));
    for user in ["node-2", "node-9", "node-x", "root", ""] {
        assert_eq!(policy.farewell(user), None);
    }
}

#[test]
fn nodes_read_their_network_and_nothing_beside_it() {
    let rules = rules();
    let may = |key: &str, end: &str| rules.policy.may_read("node-1", key.as_bytes(), end.as_bytes());
    let all = Prefix::default().all();
    let end = "/coreos.com/network0";
    assert!(
        may(&all, end) && may(&format!("{all}config"), "") && may(&format!("{all}subnets"), &format!("{all}subnett"))
    );
    for (key, end) in [
        ("/coreos.com/network", ""),
        ("/coreos.com/network", "/coreos.com/networl"),
        ("/coreos.com/network2/config", ""),
        (&all, "/coreos.com/network1"),
        (&all, "\0"),
        ("\0", "\0"),
        ("", "\0"),
        (&format!("{all}z"), &all),
    ] {
        assert!(!may(key, end), "{key:?} to {end:?}");
        assert!(rules.policy.may_read("root", key.as_bytes(), end.as_bytes()));
    }
    assert!(!rules.policy.may_read("node-9", all.as_bytes(), end.as_bytes()));
    assert!(!rules.policy.is_user("node-1", "") && !rules.policy.is_user("nobody", ""));
}

#[test]
fn a_node_behind_a_nat_shows_where_it_was_seen_and_names_no_endpoint() {
    let rules = rules();
    let mut record: Record = rules.paris.record(1, subnet(2));
    record.endpoints.clear();
    record.behind_nat = true;
    let signed = record.sign(&rules.paris.keys, &rules.paris.anchor).unwrap();
    let value = String::from_utf8(lease_value(&record, &signed)).unwrap();
    let seen = value.replace("0.0.0.0", "198.51.100.9");
    assert_ne!(seen, value);
    assert_eq!(rules.put("node-1", subnet(2), seen.as_bytes(), 5, None), Ok(()));
    assert_eq!(rules.put("node-1", subnet(2), value.as_bytes(), 5, None), Ok(()));
    // Who can be called shows where.
    record.behind_nat = false;
    let signed = record.sign(&rules.paris.keys, &rules.paris.anchor).unwrap();
    let value = String::from_utf8(lease_value(&record, &signed)).unwrap().replace("0.0.0.0", "198.51.100.9");
    assert!(rules.put("node-1", subnet(2), value.as_bytes(), 5, None).is_err());
}

#[test]
fn an_authority_is_its_seed() {
    let books = books();
    let again = Authority::from_seed(zeroize::Zeroizing::new(*books.ledger.authority().seed())).unwrap();
    assert_eq!(again.public(), authority().public());
    assert!(matches!(books.ledger.anchor(), Anchor::Authority(public) if public == again.public()));
    books.ledger.create_tls(b"certificate", b"key").unwrap();
    assert!(books.ledger.create_tls(b"other", b"key").is_err());
    assert_eq!(books.ledger.tls().unwrap().0, b"certificate");
}
