//! The same transport over pipes, as tests of what is built on it use it.

use super::{HeardState, LONG, hang_in, quick};
use crate::NodeId;
use crate::peer::{Body, Event, Lane, Peers, RefusalCode, Switchboard, Why};
use futures::executor::block_on;
use std::time::{Duration, Instant};

#[test]
fn nodes_of_one_process_talk_are_cut_off_and_find_each_other_again() {
    let board = Switchboard::new();
    let one = board.plug(NodeId(1), quick()).unwrap();
    let two = board.plug(NodeId(2), quick()).unwrap();
    let (heard_one, heard_two) = (hang_in(&one), hang_in(&two));
    let ask = || {
        let body = Body::from(b"hello".to_vec());
        block_on(one.call(NodeId(2), Lane::Raft, body, Duration::from_secs(2)))
    };
    assert_eq!(ask().unwrap(), &b"hello"[..]);
    let send = |number: u8| one.send(NodeId(2), Lane::Raft, vec![number].into());
    for number in 0..100 {
        send(number).unwrap();
    }
    heard_two[&Lane::Raft].wait("all have come", |state| state.messages.len() == 100);
    board.cut(NodeId(1), NodeId(2));
    let gone = |state: &HeardState| !state.gone.is_empty();
    heard_one[&Lane::Raft].wait("the caller knows", gone);
    heard_two[&Lane::Raft].wait("the called one knows", gone);
    assert!(ask().is_err());
    assert_eq!(send(0).unwrap_err().why, Why::Unreachable);
    board.heal(NodeId(1), NodeId(2));
    let since = Instant::now();
    while ask().is_err() {
        assert!(since.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(10));
    }
    // A new start of node 2: the old one is refused.
    let newer = board.plug(NodeId(2), quick()).unwrap();
    let heard_newer = hang_in(&newer);
    let greet = |from: &dyn Peers| {
        let body = Body::from(b"it is me".to_vec());
        block_on(from.call(NodeId(1), Lane::Control, body, Duration::from_secs(2)))
    };
    greet(&newer).unwrap();
    let error = greet(&two).unwrap_err();
    assert!(error.chain().contains("start number"), "{error:?}");
    let since = Instant::now();
    let is_told = |events: &[(NodeId, Event)]| {
        let mut codes = events.iter().map(|(_, event)| event.code);
        codes.any(|code| code == Some(RefusalCode::OldBoot))
    };
    while !is_told(&board.events()) {
        assert!(since.elapsed() < LONG, "{:?}", board.events());
        std::thread::sleep(Duration::from_millis(10));
    }
    while ask().is_err() {
        assert!(since.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(heard_newer[&Lane::Raft].look(|state| state.calls) > 0);
    board.remove(NodeId(2));
    heard_one[&Lane::Raft].wait("it is let go", |state| state.gone.len() >= 2);
}
