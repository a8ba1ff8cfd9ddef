//! The thread that writes: it takes all commands that wait, makes one write of them, brings it to the disk once, and then answers them all.
//! So a thousand clients share a few dozen syncs, and what was answered is on the disk.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use redb::Durability;
use tokio::sync::{mpsc, oneshot};

use super::{Shared, history::Revision, pen::Pen, retention::Retention};
use crate::{
    api::etcdserverpb::{
        DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, PutRequest, PutResponse, TxnRequest, TxnResponse,
    },
    server::{policy::Mandate, refusal::Refusal},
};

/// Commands of one write.
const BATCH: usize = 512;

/// Commands that wait, at most; whoever comes then waits for a place.
pub(super) const QUEUE: usize = 512;

/// How often leases are looked at whose time may be over.
const LOOK: Duration = Duration::from_millis(250);

/// What is to be changed.
#[derive(Debug)]
pub(in crate::server) enum Command {
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    /// Up to this revision.
    Compact(i64),
    Grant(LeaseGrantRequest),
    Revoke(i64),
}

/// How that went. Headers have a revision only.
#[derive(Debug)]
pub(in crate::server) enum Answer {
    Put(PutResponse),
    Delete(DeleteRangeResponse),
    Txn(TxnResponse),
    Compacted,
    /// The lease and its time in seconds.
    Granted(i64, i64),
    Revoked,
}

pub(super) struct Job {
    pub(super) command: Command,
    pub(super) by: Mandate,
    pub(super) answer: oneshot::Sender<Result<Answer, Refusal>>,
}

/// Writes until every sender of the queue is gone.
pub(super) async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Job>) {
    let mut retention = Retention::default();
    let mut jobs = Vec::with_capacity(BATCH);
    loop {
        let came = tokio::time::timeout(LOOK, queue.recv_many(&mut jobs, BATCH)).await;
        if matches!(came, Ok(0)) {
            return;
        }
        if let Err(Refusal::Store(reason)) = write(&shared, &mut jobs, &mut retention) {
            shared.fail(reason);
        }
    }
}

/// Makes one write of all jobs, of leases that are over, and of history that is too long.
fn write(shared: &Shared, jobs: &mut Vec<Job>, retention: &mut Retention) -> Result<(), Refusal> {
    let now = Instant::now();
    let over = shared.lessor.lock().unwrap_or_else(PoisonError::into_inner).over(now);
    let age = retention.note(shared.revision(), shared.compacted(), 0, now);
    if jobs.is_empty() && over.is_empty() && age.is_none() {
        return Ok(());
    }
    if let Some(reason) = shared.failure.get() {
        for job in jobs.drain(..) {
            let _ = job.answer.send(Err(Refusal::Store(reason.clone())));
        }
        return Ok(());
    }
    let mut answers = Vec::with_capacity(jobs.len());
    match commit(shared, jobs, &over, age, retention, &mut answers) {
        Ok((compacted, done)) => {
            shared.publish(compacted, done);
            for (answer, result) in answers {
                let _ = answer.send(result);
            }
            Ok(())
        }
        Err(refusal) => {
            let reason = refusal.to_string();
            for (answer, _) in answers {
                let _ = answer.send(Err(Refusal::Store(reason.clone())));
            }
            for job in jobs.drain(..) {
                let _ = job.answer.send(Err(Refusal::Store(reason.clone())));
            }
            Err(refusal)
        }
    }
}

type Answers = Vec<(oneshot::Sender<Result<Answer, Refusal>>, Result<Answer, Refusal>)>;

fn commit(
    shared: &Shared,
    jobs: &mut Vec<Job>,
    over: &[i64],
    age: Option<i64>,
    retention: &mut Retention,
    answers: &mut Answers,
) -> Result<(i64, Vec<Arc<Revision>>), Refusal> {
    let now = Instant::now();
    let mut writing = shared.database.begin_write()?;
    writing.set_durability(Durability::Immediate).map_err(|error| Refusal::Store(error.to_string()))?;
    let (compacted, done, touched) = {
        let mut pen = Pen::new(&writing, &shared.lessor)?;
        for lease in over {
            whole(pen.revoke(*lease, None))?;
        }
        let mut bytes = 0;
        for Job { command, by, answer } in jobs.drain(..) {
            bytes += size(&command);
            let result = carry_out(&mut pen, command, &by, now);
            let broken = matches!(&result, Err(Refusal::Store(_)));
            let reason = result.as_ref().err().map(ToString::to_string);
            answers.push((answer, result));
            if broken {
                return Err(Refusal::Store(reason.unwrap_or_default()));
            }
        }
        for to in [age, retention.note(pen.revision, pen.compacted, bytes, now)].into_iter().flatten() {
            whole(pen.compact(to))?;
        }
        let (compacted, touched) = (pen.compacted, pen.touched);
        (compacted, pen.close()?, touched)
    };
    if touched {
        writing.commit()?;
    } else {
        writing.abort()?;
    }
    Ok((compacted, done))
}

/// Of what nobody asked for, only failures of the file matter.
fn whole(result: Result<(), Refusal>) -> Result<(), Refusal> {
    match result {
        Err(refusal @ Refusal::Store(_)) => Err(refusal),
        _ => Ok(()),
    }
}

fn size(command: &Command) -> usize {
    use prost::Message;
    match command {
        Command::Put(put) => put.encoded_len(),
        Command::Txn(txn) => txn.encoded_len(),
        _ => 0,
    }
}

fn carry_out(pen: &mut Pen<'_>, command: Command, by: &Mandate, now: Instant) -> Result<Answer, Refusal> {
    Ok(match command {
        Command::Put(put) => Answer::Put(pen.put(put, by)?),
        Command::Delete(delete) => Answer::Delete(pen.delete(&delete, by)?),
        Command::Txn(txn) => Answer::Txn(pen.txn(txn, by)?),
        Command::Compact(to) => {
            by.is_root()?;
            pen.compact(to)?;
            Answer::Compacted
        }
        Command::Grant(grant) => {
            let (id, ttl) = pen.grant(&grant, by, now)?;
            Answer::Granted(id, ttl)
        }
        Command::Revoke(id) => {
            pen.revoke(id, Some(by))?;
            Answer::Revoked
        }
    })
}
