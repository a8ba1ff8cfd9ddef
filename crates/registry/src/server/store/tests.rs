//! The store beside a model of it that keeps every state there ever was.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Changes, Command, Store};
use crate::{
    api::{
        etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request},
        mvccpb::{Event, KeyValue},
    },
    server::policy::Mandate,
};

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8, u8),
    /// Puts one key and deletes others, in one revision.
    Both(u8, u8),
    /// So many revisions before the newest.
    Compact(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (b'a'..b'f').prop_map(Step::Put),
        2 => (b'a'..b'f', b'a'..b'g').prop_map(|(from, end)| Step::Delete(from, end)),
        2 => (b'a'..b'f', b'a'..b'f').prop_map(|(put, delete)| Step::Both(put, delete)),
        1 => (0..5_i64).prop_map(Step::Compact),
    ]
}

type State = BTreeMap<Vec<u8>, KeyValue>;

/// Every state there was, and every event, by revision.
struct Model {
    states: Vec<State>,
    events: Vec<Vec<Event>>,
    compacted: i64,
}

impl Model {
    fn new() -> Self {
        // Revision 0 never was, and 1 is empty.
        Self { states: vec![State::new(); 2], events: vec![Vec::new(); 2], compacted: -1 }
    }

    fn revision(&self) -> i64 {
        i64::try_from(self.states.len()).unwrap() - 1
    }

    fn change(&mut self, put: Option<u8>, delete: impl Fn(u8) -> bool) {
        let (mut state, revision, mut events) = (self.states.last().unwrap().clone(), self.revision() + 1, Vec::new());
        if let Some(key) = put {
            let old = state.get([key].as_slice()).cloned();
            let kv = KeyValue {
                key: vec![key],
                value: revision.to_string().into_bytes(),
                create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.as_ref().map_or(1, |old| old.version + 1),
                lease: 0,
            };
            state.insert(vec![key], kv.clone());
            events.push(Event { r#type: 0, kv: Some(kv), prev_kv: old });
        }
        let gone: Vec<Vec<u8>> = state.keys().filter(|key| delete(key[0])).cloned().collect();
        for key in gone {
            let old = state.remove(&key);
            events.push(Event {
                r#type: 1,
                kv: Some(KeyValue { key, mod_revision: revision, ..KeyValue::default() }),
                prev_kv: old,
            });
        }
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(events);
        }
    }
}

async fn make(store: &Store, model: &mut Model, step: Step) {
    let next = (model.revision() + 1).to_string().into_bytes();
    let put = |key: u8| PutRequest { key: vec![key], value: next.clone(), ..PutRequest::default() };
    let command = match step {
        Step::Put(key) => {
            model.change(Some(key), |_| false);
            Command::Put(put(key))
        }
        Step::Delete(from, end) => {
            model.change(None, |key| key >= from && key < end);
            Command::Delete(DeleteRangeRequest { key: vec![from], range_end: vec![end], prev_kv: false })
        }
        Step::Both(key, gone) if key != gone => {
            model.change(Some(key), |key| key == gone);
            let delete = DeleteRangeRequest { key: vec![gone], ..DeleteRangeRequest::default() };
            let success = [Request::RequestPut(put(key)), Request::RequestDeleteRange(delete)];
            let success = success.map(|request| RequestOp { request: Some(request) }).to_vec();
            Command::Txn(TxnRequest { success, ..TxnRequest::default() })
        }
        Step::Both(..) => return,
        Step::Compact(before) => {
            let to = model.revision() - before;
            let answer = store.write(Command::Compact(to), Mandate::of_root()).await;
            assert_eq!(answer.is_ok(), to > model.compacted);
            model.compacted = model.compacted.max(to);
            return;
        }
    };
    store.write(command, Mandate::of_root()).await.unwrap();
    assert_eq!(store.revision(), model.revision());
}

/// Asks the store for everything that the model knows.
async fn compare(store: &Store, model: &Model) {
    let oldest = model.compacted.max(1);
    for revision in 1..=model.revision() {
        let all = RangeRequest { key: b"a".to_vec(), range_end: b"z".to_vec(), revision, ..RangeRequest::default() };
        let answer = store.range(all).await;
        if revision < model.compacted {
            assert!(answer.is_err(), "revision {revision} is compacted");
            continue;
        }
        let there: Vec<KeyValue> = model.states[usize::try_from(revision).unwrap()].values().cloned().collect();
        assert_eq!(answer.unwrap().kvs, there, "at {revision}");
    }
    let mut next = oldest.max(2);
    while next <= model.revision() {
        let Changes::Next(revisions) = store.changes(next).await.unwrap() else { panic!("{next} is compacted") };
        assert!(!revisions.is_empty());
        for change in revisions {
            assert_eq!(change.revision, next);
            let mut expected = model.events[usize::try_from(next).unwrap()].clone();
            let mut events = change.events.clone();
            if next == oldest {
                // What was before the compacted revision may be forgotten.
                for event in expected.iter_mut().chain(&mut events) {
                    event.prev_kv = None;
                }
            }
            assert_eq!(events, expected, "in {next}");
            next += 1;
        }
    }
    if model.compacted > 2 {
        let before = store.changes(model.compacted - 1).await.unwrap();
        assert!(
            matches!(before, Changes::Next(_)) || matches!(before, Changes::Compacted(at) if at == model.compacted)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_state_and_event_that_is_not_compacted_is_there_also_after_a_restart(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registry.redb");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut model = Model::new();
            let store = Store::open(&path, 1 << 20).unwrap();
            for step in steps {
                make(&store, &mut model, step).await;
            }
            compare(&store, &model).await;
            drop(store);
            compare(&Store::open(&path, 1 << 20).unwrap(), &model).await;
        });
    }
}
