//! Which part of a hybrid fails beyond the training length T.
//!
//! Two runs leave one part each within T: one empties the recurrent states every T tokens, the other lets the attention layers start again
//! as often. A part whose restart alone keeps the model from collapsing is what fails; where neither restart does, both parts fail, each
//! for itself; where both do, the collapse takes long recurrent states and long attention together.

use serde::Serialize;

use super::verdict::Verdict;

/// Which part of a hybrid fails beyond the training length T.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailingPart {
    /// The recurrences: emptying them is enough, and nothing else is.
    Recurrences,
    /// The attention layers: starting them again is enough, and nothing else is.
    Attention,
    /// The two together: either restart is enough.
    Together,
    /// Each of the two: neither restart is enough.
    Both,
}

/// What fails in a model that collapses, from what is said of the model alone, of the run that empties the recurrent states, and of the
/// run in which attention starts again; nothing as long as one of them has something left to read, or where nothing collapses.
pub fn failing_part(alone: &Verdict, recurrences: &Verdict, attention: &Verdict) -> Option<FailingPart> {
    if !(alone.complete && recurrences.complete && attention.complete && alone.collapsed) {
        return None;
    }
    Some(match (recurrences.collapsed, attention.collapsed) {
        (false, true) => FailingPart::Recurrences,
        (true, false) => FailingPart::Attention,
        (false, false) => FailingPart::Together,
        (true, true) => FailingPart::Both,
    })
}

#[cfg(test)]
mod tests {
    use super::super::verdict::judge;
    use super::*;
    use crate::evaluation::tally::BucketLoss;

    fn verdict(mean: f64) -> Verdict {
        let bucket = |mean: f64| BucketLoss {
            start: 64,
            end: 128,
            mean,
            perplexity: mean.exp(),
            standard_error: None,
            tokens: 64,
        };
        judge(&[bucket(mean)], &[bucket(1.0)], 64, 2.0)
    }

    #[test]
    fn the_part_whose_restart_cures_is_what_fails() {
        let (well, ill) = (verdict(1.1), verdict(3.0));
        let cases = [
            (&well, &ill, FailingPart::Recurrences),
            (&ill, &well, FailingPart::Attention),
            (&well, &well, FailingPart::Together),
            (&ill, &ill, FailingPart::Both),
        ];
        for (recurrences, attention, part) in cases {
            assert_eq!(failing_part(&ill, recurrences, attention), Some(part));
        }
    }

    #[test]
    fn nothing_is_said_of_what_does_not_collapse_or_is_not_read_to_its_end() {
        let (well, ill) = (verdict(1.1), verdict(3.0));
        let unread = Verdict {
            complete: false,
            ..ill.clone()
        };
        assert_eq!(failing_part(&well, &well, &ill), None);
        assert_eq!(failing_part(&ill, &unread, &well), None);
        assert_eq!(failing_part(&ill, &well, &unread), None);
    }
}
