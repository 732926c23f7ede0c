//! The proplet, unchanged, against every broker that can be had: docs/brokers.md.
//!
//! Each broker goes through the same scenarios. `PROPLET_TEST_INVOCATIONS` is the number of
//! invocations, 1,000 where it is not set.

mod support;

use support::host as subject;

mod brokers {
    mod kinds;
    mod rumqttd;
    mod scenarios;
    mod stage;
}
