//! Turns by processor time.

use crate::{scenarios::shares::assert_ends, support::Stage};

#[test]
fn tasks_end_in_time_where_turns_are_by_time() {
    let Some(stage) = Stage::new(&["--preemption", "time"]) else {
        return;
    };
    assert_ends(&stage, "time");
}
