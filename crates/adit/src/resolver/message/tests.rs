use proptest::prelude::*;

use super::*;

/// A question as `dig web.berlin.adit` writes it: recursion wanted, EDNS with room for 1232 bytes and a cookie.
const DIG: &[u8] = b"\x12\x34\x01\x20\x00\x01\x00\x00\x00\x00\x00\x01\x03wEb\x06berlin\x04adit\x00\x00\x01\x00\x01\
                     \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x08ABCDEFGH";

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

#[test]
fn a_question_is_read_and_answered_to_the_byte() {
    let query = Query::parse(DIG).unwrap();
    assert_eq!((query.id, query.kind, query.class, query.limit()), (0x1234, A, IN, 1232));
    assert_eq!(query.name, name("web.berlin.adit"));
    let answer = query.answer(NO_ERROR, true, &[Data::Address("10.42.7.2".parse().unwrap())], query.limit());
    let expected = b"\x12\x34\x85\x80\x00\x01\x00\x01\x00\x00\x00\x01\x03wEb\x06berlin\x04adit\x00\x00\x01\x00\x01\
                     \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\x0a\x2a\x07\x02\
                     \x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00";
    assert_eq!(answer, expected);
    let read = Answer::parse(&answer).unwrap();
    assert_eq!(
        (read.code, &read.records[..]),
        (NO_ERROR, &[(query.name, Data::Address("10.42.7.2".parse().unwrap()))][..])
    );
}

#[test]
fn what_is_no_question_is_refused_and_an_answer_is_never_answered() {
    let change = |at: usize, byte: u8| {
        let mut bytes = DIG.to_vec();
        bytes[at] = byte;
        Query::parse(&bytes)
    };
    let code_of =
        |parsed: Result<Query, Option<Vec<u8>>>| parsed.unwrap_err().map(|answer| (code(&answer), answer.len()));
    assert_eq!(code_of(change(2, 0x81)), None, "an answer");
    assert_eq!(code_of(Query::parse(&DIG[..11])), None, "too short for anything");
    assert_eq!(code_of(change(2, 0x29)), Some((NOT_IMPLEMENTED, 12)), "an update");
    for (at, byte) in [(5, 0), (5, 2), (7, 1), (9, 1), (11, 2), (12, 0xc0), (16, 60)] {
        assert_eq!(code_of(change(at, byte)), Some((FORMAT, 12)), "byte {at} is {byte}");
    }
    for length in 12..DIG.len() {
        assert_eq!(code_of(Query::parse(&DIG[..length])), Some((FORMAT, 12)), "{length} bytes");
    }
    assert_eq!(code_of(Query::parse(&[DIG, b"x"].concat())), Some((FORMAT, 12)), "more than a question");
    // A pointer into the header, where a name could be made up.
    assert_eq!(
        code_of(Query::parse(b"\x01a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x00\x00\x01\x00\x01")),
        Some((FORMAT, 12))
    );
    // Another version of EDNS (RFC 6891, section 6.1.3).
    let answer = change(39, 1).unwrap_err().unwrap();
    assert_eq!((code(&answer), &answer[answer.len() - 6..answer.len() - 4]), (NO_ERROR, &[1, 0][..]));
}

#[test]
fn too_much_for_a_datagram_is_said() {
    let query = Query::new(7, &name("web.berlin.adit"), ANY);
    let data: Vec<Data> = (0..40).map(|n| Data::Address(IpAddr::from([10, 42, 7, n]))).collect();
    let answer = query.answer(NO_ERROR, true, &data, PLAIN);
    assert!(answer.len() <= PLAIN && is_truncated(&answer));
    assert_eq!(Answer::parse(&answer).unwrap().records, []);
    assert_eq!(Answer::parse(&query.answer(NO_ERROR, true, &data, 65_535)).unwrap().records.len(), 40);
}

#[test]
fn only_the_answer_to_the_question_is_taken() {
    let query = Query::new(7, &name("web.example"), A);
    let answer = query.answer(NO_ERROR, true, &[], PLAIN);
    assert!(query.is_answered_by(7, &answer));
    assert!(!query.is_answered_by(8, &answer), "another number");
    assert!(!query.is_answered_by(7, &query.to_bytes()), "a question");
    for other in [Query::new(7, &name("web.examplf"), A), Query::new(7, &name("web.example"), AAAA)] {
        assert!(!query.is_answered_by(7, &other.answer(NO_ERROR, true, &[], PLAIN)), "{other:?}");
    }
    let mut louder = answer.clone();
    louder[13..16].make_ascii_uppercase();
    assert!(query.is_answered_by(7, &louder), "letters' case is no matter");
    // Servers that do not understand say so without repeating anything, and nothing else.
    assert!(query.is_answered_by(7, &header(7, RESPONSE, FORMAT, [0; 4])));
    assert!(!query.is_answered_by(7, &header(7, RESPONSE, NO_ERROR, [0; 4])));
    assert!(!query.is_answered_by(7, &header(7, RESPONSE, FORMAT, [0, 1, 0, 0])));
    for length in 0..12 {
        assert!(!query.is_answered_by(7, &answer[..length]));
    }
}

#[test]
fn an_answer_that_lies_about_its_length_is_none() {
    let query = Query::new(7, &name("web.example"), A);
    let data = [Data::Address("192.0.2.1".parse().unwrap()), Data::Address("2001:db8::1".parse().unwrap())];
    let answer = query.answer(NO_ERROR, true, &data, PLAIN);
    for length in 0..answer.len() {
        assert_eq!(Answer::parse(&answer[..length]), None, "{length} bytes");
    }
    // An address of three bytes.
    let at = 12 + 17 + 11;
    let mut short = answer.clone();
    assert_eq!(short[at], 4);
    short[at] = 3;
    assert_eq!(Answer::parse(&short), None);
}

fn data() -> impl Strategy<Value = Data> {
    prop_oneof![
        any::<u32>().prop_map(|n| Data::Address(IpAddr::V4(n.into()))),
        any::<u128>().prop_map(|n| Data::Address(IpAddr::V6(n.into()))),
        "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}".prop_map(|text| Data::Name(name(&text))),
    ]
}

proptest! {
    #[test]
    fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        match Query::parse(&bytes) {
            Ok(query) => prop_assert!(query.answer(REFUSED, false, &[], PLAIN).len() <= bytes.len().max(PLAIN)),
            Err(answer) => prop_assert!(answer.is_none_or(|answer| answer.len() <= PLAIN)),
        }
        let _ = Answer::parse(&bytes);
        let _ = Query::new(1, &name("a.b"), A).is_answered_by(1, &bytes);
    }

    #[test]
    fn a_damaged_question_is_read_or_refused(at in 0..DIG.len(), byte: u8, cut in 0..=DIG.len()) {
        let mut bytes = DIG.to_vec();
        bytes[at] = byte;
        bytes.truncate(cut);
        if let Ok(query) = Query::parse(&bytes) {
            // The refusal of a stranger's question is no longer than the question, so that nobody is flooded by it.
            prop_assert!(query.answer(REFUSED, false, &[], query.limit()).len() <= bytes.len());
        }
    }

    #[test]
    fn what_is_answered_is_read(id: u16, kind: u16, text in "[a-zA-Z0-9-]{1,30}(\\.[a-z]{1,30}){0,3}", data in prop::collection::vec(data(), 0..20)) {
        let sent = Query::new(id, &name(&text), kind).to_bytes();
        let query = Query::parse(&sent).unwrap();
        let answer = query.answer(NO_ERROR, true, &data, 65_535);
        prop_assert!(query.is_answered_by(id, &answer));
        let said: Vec<Data> = Answer::parse(&answer).unwrap().records.into_iter().map(|(owner, data)| {
            assert_eq!(owner, query.name);
            data
        }).collect();
        prop_assert_eq!(said, data);
    }
}
