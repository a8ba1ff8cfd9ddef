//! What people and other programs have in their hands: `etcdctl`, and the `etcd-client` crate.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
};

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, WatchOptions,
};

use crate::{
    servers::{Process, etcdctl},
    told::{Told, cases},
};

cases![
    etcdctl_get,
    etcdctl_put,
    etcdctl_del,
    etcdctl_txn,
    etcdctl_lease,
    etcdctl_watch,
    etcdctl_compaction,
    etcdctl_endpoint,
    etcd_client_keys,
    etcd_client_txn,
    etcd_client_watch,
    etcd_client_lease,
];

/// Runs `etcdctl` and writes down what it prints and how it ends. Arguments that begin with `/` are keys of the case.
fn run(told: &mut Told, line: &str) -> String {
    run_with(told, line, "")
}

fn run_with(told: &mut Told, line: &str, input: &str) -> String {
    let arguments: Vec<String> = line
        .split(' ')
        .map(|word| word.strip_prefix('/').map_or(word.into(), |name| format!("{}{name}", told.prefix)))
        .collect();
    let mut command = etcdctl(&told.endpoint);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(&mut command);
    process.0.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    std::io::Read::read_to_string(&mut process.0.stdout.take().unwrap(), &mut out).unwrap();
    std::io::Read::read_to_string(&mut process.0.stderr.take().unwrap(), &mut err).unwrap();
    let status = process.0.wait().unwrap();
    // Log lines have times and addresses in them; what follows is for people.
    let err: Vec<&str> = err.lines().filter(|line| !line.starts_with('{')).collect();
    told.say(format!("{line}: {:?} {out:?} {err:?}", status.code()));
    out
}

async fn etcdctl_get(told: &mut Told) {
    for name in ["a", "b", "c", "ca", "b"] {
        told.set(name, &format!("value of {name}")).await;
    }
    for line in [
        "get /a",
        "get /nothing",
        "get / --prefix",
        "get / --prefix --keys-only",
        "get / --prefix --count-only --write-out=fields",
        "get / --prefix --limit=2",
        "get / --prefix --print-value-only",
        "get / --prefix --sort-by=MODIFY --order=DESCEND",
        "get / --prefix --sort-by=VERSION --order=DESCEND --limit=1",
        "get /b /ca",
        "get /c --from-key --limit=2",
        "get /a --consistency=s",
        "get",
    ] {
        run(told, line);
    }
    let past = format!("get / --prefix --rev={}", told.base + 2);
    let out = run(told, &past);
    assert!(out.contains("value of a") && !out.contains("value of c"), "{out}");
    // The line has the revision in it, which is not the same on both.
    told.lines.pop();
    told.say(out);
}

async fn etcdctl_put(told: &mut Told) {
    for line in [
        "put /a 1",
        "put /a 2 --prev-kv",
        "put /a --ignore-value",
        "put /new --ignore-value",
        "put /a 3 --lease=7777777",
        "get /a --print-value-only",
    ] {
        run(told, line);
    }
    run_with(told, "put /from-input", "lines\nof a value\n");
    run(told, "get /from-input");
}

async fn etcdctl_del(told: &mut Told) {
    for name in ["a", "b", "c", "ca", "d"] {
        told.set(name, name).await;
    }
    for line in
        ["del /a", "del /a", "del /b --prev-kv", "del /c --prefix --prev-kv", "del / --prefix", "get / --prefix"]
    {
        run(told, line);
    }
}

async fn etcdctl_txn(told: &mut Told) {
    let key = format!("{}a", told.prefix);
    for value in ["1", "2"] {
        let text = format!(
            "version(\"{key}\") = \"0\"\n\nput \"{key}\" \"{value}\"\nget \"{key}\"\n\nget \"{key}\"\ndel \"{key}\"\n\n"
        );
        run_with(told, "txn", &text);
    }
    run(told, "get / --prefix");
}

async fn etcdctl_lease(told: &mut Told) {
    let granted = run(told, "lease grant 100");
    told.lines.pop();
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    for line in [
        "put /a 1 --lease=ID",
        "lease timetolive ID --keys",
        "lease keep-alive --once ID",
        "lease list",
        "lease revoke ID",
        "lease revoke ID",
        "lease timetolive ID",
        "get /a",
    ] {
        let out = run(told, &line.replace("ID", &id));
        let said = told.lines.pop().unwrap().replace(&id, "ID").replace("remaining(99s)", "remaining(100s)");
        if line == "lease list" {
            assert!(out.contains(&id));
        } else {
            told.say(said);
        }
    }
}

async fn etcdctl_watch(told: &mut Told) {
    for (arguments, lines) in [(vec!["--prefix", "--prev-kv"], 3 + 5 + 4), (vec!["--prefix", "--rev=REV"], 3 + 3 + 3)] {
        let base = told.set("0", "before").await;
        let mut command = etcdctl(&told.endpoint);
        command.args(["watch", &told.prefix]).stdout(Stdio::piped()).stderr(Stdio::inherit());
        command.args(arguments.iter().map(|argument| argument.replace("REV", &(base + 1).to_string())));
        // Without a revision it begins when it begins: its first word is to a key that is written until it comes.
        let from_now = !arguments.contains(&"--rev=REV");
        let mut process = Process::start(&mut command);
        let mut out = BufReader::new(process.0.stdout.take().unwrap()).lines();
        if from_now {
            let (heard, hears) = std::sync::mpsc::channel();
            let reader = std::thread::spawn(move || {
                let first = out.next();
                heard.send(()).unwrap();
                // The rest of this event, and of those that came until it was heard.
                (first, out)
            });
            let mut number = 0;
            while hears.try_recv().is_err() {
                number += 1;
                told.set("first", &number.to_string()).await;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            out = reader.join().unwrap().1;
            told.set("last of the first", "").await;
            let last = format!("{}last of the first", told.prefix);
            while out.next().unwrap().unwrap() != last {}
            assert_eq!(out.next().unwrap().unwrap(), "");
        }
        told.set("a", "1").await;
        told.set("a", "2").await;
        told.kv
            .delete_range(registry::api::etcdserverpb::DeleteRangeRequest { key: told.key("a"), ..Default::default() })
            .await
            .unwrap();
        for _ in 0..lines {
            let line = out.next().unwrap().unwrap();
            told.say(line);
        }
    }
}

async fn etcdctl_compaction(told: &mut Told) {
    for value in ["1", "2", "3"] {
        told.set("a", value).await;
    }
    let at = told.base + 2;
    for line in ["compaction AT", "compaction AT", "get /a --rev=1", "watch /a --rev=1"] {
        run(told, &line.replace("AT", &at.to_string()));
        let said = told.lines.pop().unwrap().replace(&at.to_string(), "AT");
        told.say(said);
    }
}

async fn etcdctl_endpoint(told: &mut Told) {
    let healthy = run(told, "endpoint health");
    assert_eq!(healthy, "");
    let said = told.lines.pop().unwrap();
    assert!(said.contains("is healthy"), "{said}");
    // Without TLS, this one command of etcdctl 3.4 sends the whole of an "http://…" as :authority, which HTTP/2 forbids and only Go takes.
    let bare = told.endpoint.trim_start_matches("http://").to_owned();
    let done = etcdctl(&bare).args(["endpoint", "status", "--write-out=simple"]).output().unwrap();
    let status = String::from_utf8(done.stdout).unwrap();
    let fields: Vec<&str> = status.trim().split(", ").collect();
    assert_eq!(fields[0], bare, "{}", String::from_utf8_lossy(&done.stderr));
    told.say(format!("{} {} {}", fields.len(), fields[2].starts_with("3.4."), fields[4]));
    let members = run(told, "member list");
    told.lines.pop();
    let fields: Vec<&str> = members.trim().split(", ").collect();
    told.say(format!("{} {} {} {}", members.lines().count(), fields.len(), fields[1], fields[4] == told.endpoint));
    run(told, "endpoint health --cluster");
    assert!(told.lines.pop().unwrap().contains("is healthy"));
}

async fn client(told: &Told) -> Client {
    Client::connect([&told.endpoint], None).await.unwrap()
}

async fn etcd_client_keys(told: &mut Told) {
    let (mut client, base) = (client(told).await, told.base);
    for name in ["a", "b", "c", "a"] {
        let options = PutOptions::new().with_prev_key();
        let answer = client.put(told.key(name), name, Some(options)).await.unwrap();
        told.say(format!(
            "{} {:?}",
            answer.header().unwrap().revision() - base,
            answer.prev_key().map(|kv| kv.version())
        ));
    }
    for options in [
        GetOptions::new().with_prefix(),
        GetOptions::new().with_prefix().with_sort(SortTarget::Mod, SortOrder::Descend).with_limit(2),
        GetOptions::new().with_prefix().with_count_only(),
        GetOptions::new().with_prefix().with_keys_only(),
        GetOptions::new().with_prefix().with_revision(base + 2),
        GetOptions::new().with_from_key().with_limit(2),
    ] {
        let answer = client.get(told.key(""), Some(options)).await.unwrap();
        let kvs: Vec<_> = answer
            .kvs()
            .iter()
            .map(|kv| format!("{:?} {:?} {} {}", kv.key_str(), kv.value_str(), kv.mod_revision() - base, kv.version()))
            .collect();
        told.say(format!("{kvs:?} {}", answer.more()));
    }
    let answer = client.delete(told.key(""), Some(DeleteOptions::new().with_prefix().with_prev_key())).await.unwrap();
    told.say(format!("{} {}", answer.deleted(), answer.prev_kvs().len()));
    let refused = client.get(told.key(""), Some(GetOptions::new().with_revision(base + 1000))).await;
    told.say(format!("{}", refused.unwrap_err()));
    let status = client.status().await.unwrap();
    told.say(status.version().split('.').take(2).collect::<Vec<_>>().join("."));
    let answer = client.compact(base + 2, None).await.unwrap();
    told.say(format!("{}", answer.header().unwrap().revision() - base));
}

async fn etcd_client_txn(told: &mut Told) {
    let mut client = client(told).await;
    for _ in 0..2 {
        let txn = Txn::new()
            .when([Compare::version(told.key("a"), CompareOp::Equal, 0)])
            .and_then([
                TxnOp::put(told.key("a"), "1", None),
                TxnOp::txn(Txn::new().and_then([TxnOp::put(told.key("b"), "2", None)])),
            ])
            .or_else([TxnOp::get(told.key("a"), None), TxnOp::delete(told.key("b"), None)]);
        let answer = client.txn(txn).await.unwrap();
        told.say(format!("{} {}", answer.succeeded(), answer.op_responses().len()));
    }
}

async fn etcd_client_watch(told: &mut Told) {
    let (mut client, base) = (client(told).await, told.base);
    let options = WatchOptions::new().with_prefix().with_prev_key().with_progress_notify();
    let mut stream = client.watch(told.key(""), Some(options)).await.unwrap();
    for value in ["1", "2"] {
        client.put(told.key("a"), value, None).await.unwrap();
    }
    client.delete(told.key("a"), None).await.unwrap();
    let mut events = 0;
    while events < 3 {
        let answer = stream.message().await.unwrap().unwrap();
        for event in answer.events() {
            let kv = event.kv().unwrap();
            let previous = event.prev_kv().map(|kv| kv.value().to_vec());
            let put = event.event_type() == EventType::Put;
            told.say(format!("{put} {:?} {} {previous:?}", kv.value_str(), kv.mod_revision() - base));
            events += 1;
        }
    }
    stream.request_progress().await.unwrap();
    let answer = stream.message().await.unwrap().unwrap();
    told.say(format!("{} {}", answer.watch_id(), answer.events().len()));
    stream.cancel(0).await.unwrap();
    let answer = stream.message().await.unwrap().unwrap();
    told.say(format!("{} {}", answer.canceled(), answer.watch_id()));
}

async fn etcd_client_lease(told: &mut Told) {
    let mut client = client(told).await;
    let granted = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(0x4000))).await.unwrap();
    told.say(format!("{:x} {}", granted.id(), granted.ttl()));
    client.put(told.key("a"), "1", Some(PutOptions::new().with_lease(0x4000))).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(0x4000).await.unwrap();
    keeper.keep_alive().await.unwrap();
    let kept = answers.message().await.unwrap().unwrap();
    told.say(format!("{:x} {}", kept.id(), kept.ttl()));
    let left = client.lease_time_to_live(0x4000, Some(LeaseTimeToLiveOptions::new().with_keys())).await.unwrap();
    told.say(format!("{} {}", left.granted_ttl(), left.keys().len()));
    assert!(client.leases().await.unwrap().leases().iter().any(|lease| lease.id() == 0x4000));
    client.lease_revoke(0x4000).await.unwrap();
    told.say(format!("{}", client.get(told.key("a"), None).await.unwrap().kvs().len()));
}
