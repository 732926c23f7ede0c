//! Messages of any size, mixed.

use crate::support::{SIZES_ARGS, Stage, assert_all_sizes_are_answered};

#[test]
fn messages_of_a_byte_to_8_mib_are_answered_once_each() {
    let Some(mut stage) = Stage::new(SIZES_ARGS) else {
        return;
    };
    assert_all_sizes_are_answered(&mut stage.proplet, &stage.peer);
}
