//! What is known of names, and what is being asked. Time is an argument.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use tokio::sync::watch;

use crate::clock::Instant;
use crate::shortage::Shortage;

/// Answers that are remembered: two for a name.
const REMEMBERED: usize = 4096;

/// One family's addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: Box<str>,
    pub(super) family: Family,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

/// The addresses, at least one, or why there are none.
pub(super) type Found = Result<Arc<[IpAddr]>, Miss>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Miss {
    /// There are none.
    Nothing {
        /// Whether the name has anything else.
        exists: bool,
    },
    /// Nobody answered, or not usefully.
    Failed,
    /// Nobody was asked, for want of something of this machine.
    Short(Shortage),
}

/// An answer, and when it came.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) found: Found,
    pub(super) at: Instant,
}

/// A question whose answer is known, or will be.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Known(Answer),
    Open { since: Instant, answer: watch::Receiver<Option<Answer>> },
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Answers {
    entries: HashMap<Question, Entry>,
}

#[derive(Debug)]
struct Entry {
    asked: Asked,
    /// For known answers.
    until: Option<Instant>,
}

impl Miss {
    pub(super) fn shortage(&self) -> Option<Shortage> {
        match self {
            Miss::Short(shortage) => Some(*shortage),
            Miss::Nothing { .. } | Miss::Failed => None,
        }
    }
}

impl Family {
    pub(super) fn record_type(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }
}

impl Asked {
    /// When it was asked, or answered.
    pub(super) fn since(&self) -> Instant {
        match self {
            Asked::Known(answer) => answer.at,
            Asked::Open { since, .. } => *since,
        }
    }

    /// Waits for the answer.
    pub(super) async fn answer(&mut self) -> Answer {
        let (since, receiver) = match self {
            Asked::Known(answer) => return answer.clone(),
            Asked::Open { since, answer } => (*since, answer),
        };
        // The one who asks may end without an answer, with the resolver.
        let answered = receiver.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        let answer = answered.unwrap_or(Answer { found: Err(Miss::Failed), at: since });
        *self = Asked::Known(answer.clone());
        answer
    }
}

impl Answers {
    /// What is known or asked already.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<Asked> {
        let entry = self.entries.get(question)?;
        entry.is_alive(now).then(|| entry.asked.clone())
    }

    /// A question is being asked.
    pub(super) fn open(
        &mut self,
        question: Question,
        answer: watch::Receiver<Option<Answer>>,
        now: Instant,
    ) -> Asked {
        self.make_room(now);
        let asked = Asked::Open { since: now, answer };
        self.entries.insert(question, Entry { asked: asked.clone(), until: None });
        asked
    }

    /// A question is answered, and the answer may be used for so long.
    pub(super) fn close(&mut self, question: Question, answer: Answer, ttl: Duration) {
        if ttl.is_zero() {
            self.entries.remove(&question);
            return;
        }
        let until = Some(answer.at + ttl);
        self.entries.insert(question, Entry { asked: Asked::Known(answer), until });
    }

    /// Forgets what is over, and then, if need be, the answer that would be over first. Open questions are bounded by the
    /// jobs that ask them.
    fn make_room(&mut self, now: Instant) {
        if self.entries.len() < REMEMBERED {
            return;
        }
        self.entries.retain(|_, entry| entry.is_alive(now));
        if self.entries.len() < REMEMBERED {
            return;
        }
        let known = self.entries.iter().filter_map(|(question, entry)| Some((entry.until?, question)));
        let soonest = known.min_by_key(|(until, _)| *until).map(|(_, question)| question.clone());
        if let Some(question) = soonest {
            self.entries.remove(&question);
        }
    }
}

impl Entry {
    fn is_alive(&self, now: Instant) -> bool {
        match (&self.asked, self.until) {
            (Asked::Known(_), until) => until.is_some_and(|until| now < until),
            // A sender that is gone will not answer any more.
            (Asked::Open { answer, .. }, _) => answer.borrow().is_some() || answer.has_changed().is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::now;

    fn question(number: usize) -> Question {
        Question { name: format!("{number}.test").into(), family: Family::V4 }
    }

    fn answer(at: Instant) -> Answer {
        Answer { found: Ok(Arc::from([IpAddr::from([1, 1, 1, 1])])), at }
    }

    #[test]
    fn an_answer_is_known_until_its_end() {
        let start = now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut answers = Answers::default();
        let (sender, receiver) = watch::channel(None);
        answers.open(question(1), receiver, at(0));
        assert!(
            matches!(answers.get(&question(1), at(9)), Some(Asked::Open { since, .. }) if since == at(0))
        );
        assert!(answers.get(&question(2), at(9)).is_none());
        answers.close(question(1), answer(at(10)), Duration::from_millis(5));
        drop(sender);
        assert!(matches!(answers.get(&question(1), at(14)), Some(Asked::Known(_))));
        assert!(answers.get(&question(1), at(15)).is_none());
        answers.close(question(1), answer(at(20)), Duration::ZERO);
        assert!(answers.get(&question(1), at(20)).is_none(), "a TTL of zero is honoured");
    }

    #[test]
    fn a_question_that_nobody_asks_any_more_is_asked_again() {
        let start = now();
        let mut answers = Answers::default();
        let (sender, receiver) = watch::channel(None);
        answers.open(question(1), receiver, start);
        drop(sender);
        assert!(answers.get(&question(1), start).is_none());
    }

    #[test]
    fn the_number_of_answers_is_bounded() {
        let start = now();
        let mut answers = Answers::default();
        for number in 0..2 * REMEMBERED {
            answers.open(question(number), watch::channel(None).1, start);
            let ttl = Duration::from_secs(1 + number as u64);
            answers.close(question(number), answer(start), ttl);
        }
        assert!(answers.entries.len() <= REMEMBERED, "{}", answers.entries.len());
        assert!(answers.get(&question(2 * REMEMBERED - 1), start).is_some());
    }
}
