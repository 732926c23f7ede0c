//! The choice between the broker's session and a new one.

use crate::error::ConnectionError;
use log::warn;

/// Connections in a row that the broker closes behind a CONNECT, without a byte, after which the next one
/// begins a new session.
const UNANSWERED_MAX: u8 = 2;

/// What a CONNECT says of the session, and of the will.
///
/// A new session loses what the broker keeps for this one. So it is asked for only where there is none, or
/// where the broker seems to want that: FluxMQ closes the connection of a client that it does not know and
/// that asks for its session, without a byte.
#[derive(Debug)]
pub(crate) struct Resumption {
    /// Whether the broker may have a session of this client that is of use.
    has_session: bool,
    /// Connections in a row that were closed without an answer.
    unanswered: u8,
    /// Whether the next connection begins a new session all the same.
    is_clean_due: bool,
    /// Whether a broker that does not resume the session has made one attempt soon, since it last accepted one.
    has_hurried: bool,
    /// Whether the broker refuses the will's QoS 1.
    will_at_most_once: bool,
}

impl Resumption {
    pub(crate) const fn new(has_session: bool) -> Self {
        Self {
            has_session,
            unanswered: 0,
            is_clean_due: false,
            has_hurried: false,
            will_at_most_once: false,
        }
    }

    /// Whether the next CONNECT asks for a new session.
    pub(crate) const fn clean_start(&self) -> bool {
        !self.has_session || self.is_clean_due
    }

    /// Whether the next CONNECT has a will of QoS 0.
    pub(crate) const fn will_at_most_once(&self) -> bool {
        self.will_at_most_once
    }

    /// Takes note of a CONNACK.
    pub(crate) const fn accepted(&mut self) {
        self.has_session = true;
        self.has_hurried = false;
        self.unanswered = 0;
        self.is_clean_due = false;
    }

    /// Takes note of a connection that had no CONNACK, or one that refuses it; `has_will` says whether there
    /// was one. Returns whether the next attempt is made as soon as a first one: this failure says nothing of the
    /// network.
    pub(crate) fn failed(&mut self, error: ConnectionError, has_will: bool) -> bool {
        let was_clean = self.clean_start();
        let unanswered = self.unanswered + 1;
        self.is_clean_due = false;
        self.unanswered = 0;
        match error {
            ConnectionError::Unanswered if !was_clean && unanswered < UNANSWERED_MAX => {
                self.unanswered = unanswered;
                !core::mem::replace(&mut self.has_hurried, true)
            }
            ConnectionError::Unanswered | ConnectionError::Refused(0x80 | 0x83 | 0x85)
                if !was_clean =>
            {
                warn!(
                    "the broker does not resume our session: the next connection asks for a new one, without the commands that were kept"
                );
                self.is_clean_due = true;
                !core::mem::replace(&mut self.has_hurried, true)
            }
            ConnectionError::Refused(0x9b) if has_will && !self.will_at_most_once => {
                warn!(
                    "the broker has no quality of service but 0: the last will is left at QoS 0 from now on"
                );
                self.will_at_most_once = true;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use ConnectionError::{Refused, Transport, Unanswered};

    /// Whether each next connection after these asks for a new session.
    fn clean_after(errors: &[ConnectionError]) -> bool {
        let mut resumption = Resumption::new(true);
        for error in errors {
            resumption.failed(*error, true);
        }
        resumption.clean_start()
    }

    #[test]
    fn two_closes_in_a_row_without_an_answer_make_a_new_session() {
        assert!(Resumption::new(false).clean_start());
        assert!(!Resumption::new(true).clean_start());
        assert!(!clean_after(&[Unanswered]));
        assert!(clean_after(&[Unanswered, Unanswered]));
        // A cut or a time-out between them says that the network is at fault.
        for other in [
            Transport,
            ConnectionError::Timeout,
            ConnectionError::Dial,
            ConnectionError::Closed(None),
            Refused(0x88),
        ] {
            assert!(!clean_after(&[Unanswered, other, Unanswered]), "{other:?}");
        }
    }

    #[test]
    fn codes_that_may_mean_the_session_make_a_new_one() {
        for code in 0..=u8::MAX {
            let expected = [0x80, 0x83, 0x85].contains(&code);
            assert_eq!(clean_after(&[Refused(code)]), expected, "{code:#x}");
        }
    }

    #[test]
    fn a_new_session_that_fails_too_is_not_asked_for_again_at_once() {
        assert!(!clean_after(&[Unanswered, Unanswered, Unanswered]));
        assert!(!clean_after(&[Refused(0x80), Refused(0x80)]));
        assert!(clean_after(&[
            Unanswered, Unanswered, Transport, Unanswered, Unanswered
        ]));
    }

    #[test]
    fn one_attempt_is_made_soon() {
        let mut resumption = Resumption::new(true);
        let mut hurries = |errors: &[ConnectionError]| -> std::vec::Vec<bool> {
            let all = errors.iter().map(|error| resumption.failed(*error, false));
            all.collect()
        };
        assert_eq!(
            hurries(&[Transport, Unanswered, Unanswered, Unanswered]),
            [false, true, false, false]
        );
        assert_eq!(
            hurries(&[Unanswered, Refused(0x80), Unanswered]),
            [false; 3]
        );
        resumption.accepted();
        assert!(resumption.failed(Refused(0x80), false));
        assert!(!resumption.failed(Unanswered, false));
    }

    #[test]
    fn a_session_is_kept_once_there_is_one() {
        let mut resumption = Resumption::new(false);
        resumption.failed(Unanswered, false);
        assert!(resumption.clean_start());
        resumption.accepted();
        assert!(!resumption.clean_start());
    }

    #[test]
    fn a_broker_without_qos_1_gets_the_will_at_qos_0() {
        let mut resumption = Resumption::new(false);
        resumption.failed(Refused(0x9b), false);
        assert!(!resumption.will_at_most_once());
        resumption.failed(Refused(0x9b), true);
        assert!(resumption.will_at_most_once());
    }
}
