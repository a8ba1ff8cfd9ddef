//! One write to the file, which holds the commands of many clients: each is checked wholly, then carried out, so that one that is refused has changed
//! nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use prost::Message;
use redb::{Table, WriteTransaction};

use super::{
    history::Revision,
    lessor::{LEASES_OF_ONE, Lessor},
    plan::{Op, Plan, check_ranges, header, plan},
    tables::{ATTACHED, KEYS, LEASES, META, Picture, REVISIONS, VERSIONS, Written, keys_of, number},
};
use crate::{
    api::{
        etcdserverpb::{
            DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, PutResponse, ResponseHeader,
            ResponseOp, TxnRequest, TxnResponse, request_op::Request, response_op::Response,
        },
        mvccpb::{Event, KeyValue, event::EventType},
    },
    server::{policy::Mandate, refusal::Refusal},
};

/// Bounds of a lease's time in seconds; the upper one is etcd's.
const MIN_TTL: i64 = 1;
const MAX_TTL: i64 = 9_000_000_000;

pub(super) struct Pen<'txn> {
    keys: Table<'txn, &'static [u8], &'static [u8]>,
    pub(super) versions: Table<'txn, (&'static [u8], i64), &'static [u8]>,
    pub(super) revisions: Table<'txn, (i64, u32), &'static [u8]>,
    leases: Table<'txn, i64, (i64, &'static str)>,
    attached: Table<'txn, (i64, &'static [u8]), ()>,
    meta: Table<'txn, &'static str, i64>,
    lessor: &'txn Mutex<Lessor>,
    /// The newest revision that is complete.
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// What the command under way has changed.
    events: Vec<Event>,
    /// What all of them have changed, to be told when it is on the disk.
    pub(super) done: Vec<Arc<Revision>>,
    /// Whether there is anything to be brought to the disk.
    pub(super) touched: bool,
}

impl<'txn> Pen<'txn> {
    pub(super) fn new(writing: &'txn WriteTransaction, lessor: &'txn Mutex<Lessor>) -> Result<Self, Refusal> {
        let meta = writing.open_table(META)?;
        let (revision, compacted) = (number(&meta, "revision")?, number(&meta, "compacted")?);
        Ok(Self {
            keys: writing.open_table(KEYS)?,
            versions: writing.open_table(VERSIONS)?,
            revisions: writing.open_table(REVISIONS)?,
            leases: writing.open_table(LEASES)?,
            attached: writing.open_table(ATTACHED)?,
            meta,
            lessor,
            revision,
            compacted,
            events: Vec::new(),
            done: Vec::new(),
            touched: false,
        })
    }

    /// Writes down which revision this is, before the commit.
    pub(super) fn close(mut self) -> Result<Vec<Arc<Revision>>, Refusal> {
        self.meta.insert("revision", self.revision)?;
        self.meta.insert("compacted", self.compacted)?;
        Ok(self.done)
    }

    pub(super) fn put(&mut self, put: PutRequest, by: &Mandate) -> Result<PutResponse, Refusal> {
        self.check_put(&put, by)?;
        let answer = self.do_put(put)?;
        self.finish()?;
        Ok(answer)
    }

    pub(super) fn delete(&mut self, delete: &DeleteRangeRequest, by: &Mandate) -> Result<DeleteRangeResponse, Refusal> {
        self.check_delete(delete, by)?;
        let answer = self.do_delete(delete)?;
        self.finish()?;
        Ok(answer)
    }

    pub(super) fn txn(&mut self, txn: TxnRequest, by: &Mandate) -> Result<TxnResponse, Refusal> {
        let plan = plan(txn, &self.picture())?;
        self.check_plan(&plan, by)?;
        let mut answer = self.do_plan(plan)?;
        self.finish()?;
        answer.header = header(self.revision);
        Ok(answer)
    }

    /// Grants a lease and says which, and for how long.
    pub(super) fn grant(
        &mut self,
        grant: &LeaseGrantRequest,
        by: &Mandate,
        now: Instant,
    ) -> Result<(i64, i64), Refusal> {
        if grant.ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        let ttl = grant.ttl.max(MIN_TTL);
        let id = if grant.id == 0 { self.free_id()? } else { grant.id };
        if self.lessor().get(id).is_some() {
            return Err(Refusal::LeaseExists);
        }
        if !by.who.is_root() {
            self.make_room(&by.who.0)?;
        }
        if self.lessor().is_full() {
            return Err(Refusal::TooManyRequests);
        }
        self.leases.insert(id, (ttl, by.who.0.as_str()))?;
        self.lessor().grant(id, ttl, by.who.0.clone(), now);
        self.touched = true;
        Ok((id, ttl))
    }

    /// Ends a lease and all keys that are bound to it, in one revision. Nobody is asked where its time is over.
    pub(super) fn revoke(&mut self, id: i64, by: Option<&Mandate>) -> Result<(), Refusal> {
        let Some(owner) = self.lessor().get(id).map(|lease| lease.owner.clone()) else {
            return Err(Refusal::LeaseNotFound);
        };
        let keys = keys_of(&self.attached, id)?;
        if let Some(by) = by.filter(|by| !by.who.is_root()) {
            if owner != by.who.0 {
                return Err(Refusal::Denied("the lease is somebody else's".into()));
            }
            for key in &keys {
                if let Some(present) = self.picture().get(key)? {
                    by.may_delete(key, Some(&present))?;
                }
            }
        }
        for key in keys {
            self.do_delete(&DeleteRangeRequest { key, ..DeleteRangeRequest::default() })?;
        }
        self.leases.remove(id)?;
        self.lessor().forget(id);
        self.touched = true;
        self.finish()
    }

    fn lessor(&self) -> std::sync::MutexGuard<'txn, Lessor> {
        self.lessor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free_id(&self) -> Result<i64, Refusal> {
        let random = SystemRandom::new();
        loop {
            let mut bytes = [0; 8];
            random.fill(&mut bytes).map_err(|_| Refusal::Store("the system has no random numbers".into()))?;
            let id = i64::from_be_bytes(bytes) & i64::MAX;
            if id != 0 && self.lessor().get(id).is_none() {
                return Ok(id);
            }
        }
    }

    /// Lets go of leases that somebody has too many of, if no key is bound to them.
    fn make_room(&mut self, owner: &str) -> Result<(), Refusal> {
        let leases = self.lessor().of(owner);
        let mut many = leases.len();
        for id in leases {
            if many < LEASES_OF_ONE {
                break;
            }
            if keys_of(&self.attached, id)?.is_empty() {
                self.leases.remove(id)?;
                self.lessor().forget(id);
                many -= 1;
            }
        }
        if many < LEASES_OF_ONE { Ok(()) } else { Err(Refusal::TooManyRequests) }
    }

    fn picture(&self) -> Written<'_, 'txn> {
        let changing = i64::from(!self.events.is_empty());
        Picture {
            keys: &self.keys,
            versions: &self.versions,
            revision: self.revision + changing,
            compacted: self.compacted,
        }
    }

    fn check_put(&self, put: &PutRequest, by: &Mandate) -> Result<(), Refusal> {
        let present = self.picture().get(&put.key)?;
        if (put.ignore_value || put.ignore_lease) && present.is_none() {
            return Err(Refusal::KeyNotFound);
        }
        if put.lease != 0 {
            let lessor = self.lessor();
            let lease = lessor.get(put.lease).ok_or(Refusal::LeaseNotFound)?;
            // Who lends somebody a key could no longer end his own lease.
            if !by.who.is_root() && lease.owner != by.who.0 {
                return Err(Refusal::Denied("the lease is somebody else's".into()));
            }
        }
        by.may_put(&renewed(put, present.as_ref(), self.revision + 1), present.as_ref())
    }

    fn check_delete(&self, delete: &DeleteRangeRequest, by: &Mandate) -> Result<(), Refusal> {
        let present = self.picture().now(&delete.key, &delete.range_end)?;
        if present.is_empty() && delete.range_end.is_empty() {
            return by.may_delete(&delete.key, None);
        }
        present.iter().try_for_each(|present| by.may_delete(&present.key, Some(present)))
    }

    fn check_plan(&self, plan: &Plan, by: &Mandate) -> Result<(), Refusal> {
        for op in &plan.ops {
            match op {
                Op::Plain(Request::RequestPut(put)) => self.check_put(put, by)?,
                Op::Plain(Request::RequestDeleteRange(delete)) => self.check_delete(delete, by)?,
                Op::Plain(_) => {}
                Op::Nested(inner) => self.check_plan(inner, by)?,
            }
        }
        check_ranges(plan, &self.picture())
    }

    fn do_plan(&mut self, plan: Plan) -> Result<TxnResponse, Refusal> {
        let mut responses = Vec::with_capacity(plan.ops.len());
        for op in plan.ops {
            let response = match op {
                Op::Plain(Request::RequestRange(range)) => Response::ResponseRange(self.picture().range(&range)?),
                Op::Plain(Request::RequestPut(put)) => Response::ResponsePut(self.do_put(put)?),
                Op::Plain(Request::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(self.do_delete(&delete)?)
                }
                Op::Plain(Request::RequestTxn(_)) => continue,
                Op::Nested(inner) => Response::ResponseTxn(self.do_plan(inner)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded: plan.succeeded, responses })
    }

    fn do_put(&mut self, put: PutRequest) -> Result<PutResponse, Refusal> {
        let revision = self.revision + 1;
        let present = self.picture().get(&put.key)?;
        let kv = renewed(&put, present.as_ref(), revision);
        self.keys.insert(kv.key.as_slice(), kv.encode_to_vec().as_slice())?;
        let was = present.as_ref().map_or(0, |present| present.lease);
        if was != kv.lease {
            self.attached.remove((was, kv.key.as_slice()))?;
            if kv.lease != 0 {
                self.attached.insert((kv.lease, kv.key.as_slice()), ())?;
            }
        }
        let prev_kv = if put.prev_kv { present.clone() } else { None };
        self.changed(EventType::Put, kv, present)?;
        Ok(PutResponse { header: header(revision), prev_kv })
    }

    fn do_delete(&mut self, delete: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Refusal> {
        let present = self.picture().now(&delete.key, &delete.range_end)?;
        let revision = self.revision + 1;
        for old in &present {
            self.keys.remove(old.key.as_slice())?;
            if old.lease != 0 {
                self.attached.remove((old.lease, old.key.as_slice()))?;
            }
            let gone = KeyValue { key: old.key.clone(), mod_revision: revision, ..KeyValue::default() };
            self.changed(EventType::Delete, gone, Some(old.clone()))?;
        }
        Ok(DeleteRangeResponse {
            header: header(self.picture().revision),
            deleted: i64::try_from(present.len()).unwrap_or(i64::MAX),
            prev_kvs: if delete.prev_kv { present } else { Vec::new() },
        })
    }

    fn changed(&mut self, what: EventType, kv: KeyValue, prev_kv: Option<KeyValue>) -> Result<(), Refusal> {
        let mut event = Event { r#type: what.into(), kv: Some(kv), prev_kv: None };
        let bytes = event.encode_to_vec();
        if let Some(kv) = &event.kv {
            self.versions.insert((kv.key.as_slice(), self.revision + 1), bytes.as_slice())?;
        }
        event.prev_kv = prev_kv;
        self.events.push(event);
        Ok(())
    }

    /// Makes a revision of what a command has changed, if it has.
    fn finish(&mut self) -> Result<(), Refusal> {
        if self.events.is_empty() {
            return Ok(());
        }
        self.touched = true;
        self.revision += 1;
        let events = std::mem::take(&mut self.events);
        for (place, event) in (0..).zip(&events) {
            if let Some(kv) = &event.kv {
                self.revisions.insert((self.revision, place), kv.key.as_slice())?;
            }
        }
        self.done.push(Arc::new(Revision { revision: self.revision, events }));
        Ok(())
    }
}

/// What a key holds after a put.
fn renewed(put: &PutRequest, present: Option<&KeyValue>, revision: i64) -> KeyValue {
    KeyValue {
        key: put.key.clone(),
        value: present.filter(|_| put.ignore_value).map_or_else(|| put.value.clone(), |present| present.value.clone()),
        lease: present.filter(|_| put.ignore_lease).map_or(put.lease, |present| present.lease),
        create_revision: present.map_or(revision, |present| present.create_revision),
        mod_revision: revision,
        version: present.map_or(1, |present| present.version + 1),
    }
}
