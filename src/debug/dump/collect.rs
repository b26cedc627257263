//! Who has answered, and what do all answers come to? One tree: parents before children, each once.
use std::collections::HashMap;

use uuid::Uuid;

use super::answer::Answer;
use super::symbols::Symbols;
use super::text;
use crate::msg::ident::Aid;

/// An actor that the root knows of.
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    pub(crate) aid: Aid,
    /// `None`: it is the root.
    pub(crate) parent: Option<Uuid>,
}

/// The answers to one dump.
#[derive(Debug)]
pub(crate) struct Collector {
    id: u64,
    /// In the order in which they were started.
    expected: Vec<Expected>,
    answers: HashMap<Uuid, Answer>,
    /// Only those of one name, and what is below them, are wanted.
    is_narrowed: bool,
    unknown: usize,
}

/// Answers that are kept of actors that the root does not know: they were started just now.
const MAX_UNKNOWN: usize = 1_000;

impl Collector {
    pub(crate) fn new(id: u64, expected: Vec<Expected>) -> Self {
        Collector { id, expected, answers: HashMap::new(), is_narrowed: false, unknown: 0 }
    }

    /// Wants those of this name, or whose uuid begins so, and what is below them, and nobody else.
    pub(crate) fn narrowed_to(mut self, name: &str) -> Self {
        let mut wanted: Vec<Uuid> = Vec::new();
        // Parents were started before their children.
        for expected in &self.expected {
            if is_called(&expected.aid, name) || expected.parent.is_some_and(|parent| wanted.contains(&parent)) {
                wanted.push(expected.aid.uuid());
            }
        }
        self.expected.retain(|expected| wanted.contains(&expected.aid.uuid()));
        self.is_narrowed = true;
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.expected.is_empty()
    }

    /// One that came twice, or too late from another dump, changes nothing.
    pub(crate) fn on_answer(&mut self, answer: Answer) {
        let uuid = answer.aid.uuid();
        if answer.id != self.id || self.answers.contains_key(&uuid) {
            return;
        }
        if !self.expected.iter().any(|expected| expected.aid.uuid() == uuid) {
            let is_below = self.expected.iter().any(|expected| Some(expected.aid.uuid()) == answer.parent);
            if self.unknown >= MAX_UNKNOWN || (self.is_narrowed && !is_below) {
                return;
            }
            self.unknown += 1;
            self.expected.push(Expected { aid: answer.aid.clone(), parent: answer.parent });
        }
        self.answers.insert(uuid, answer);
    }

    /// Those that have not answered.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &Aid> {
        let missing = self.expected.iter().filter(|expected| !self.answers.contains_key(&expected.aid.uuid()));
        missing.map(|expected| &expected.aid)
    }

    /// The text of the dump. `silent`: what is known of one that has not answered.
    pub(crate) fn finish(&self, silent: &dyn Fn(&Aid) -> String, symbols: &mut dyn Symbols) -> String {
        let mut text = String::new();
        let mut drawn = Vec::new();
        // Whoever has lost its parent stands on the left too: nobody may be left out.
        for top in self.expected.iter().filter(|expected| self.parent_of(expected).is_none()) {
            self.draw(top, "", "", &mut drawn, &mut text, silent, symbols);
        }
        text
    }

    fn parent_of(&self, child: &Expected) -> Option<&Expected> {
        self.expected.iter().find(|other| Some(other.aid.uuid()) == child.parent)
    }

    /// One actor with its children; `first` stands before its own line, `rest` before all that follows.
    #[expect(clippy::too_many_arguments, reason = "what is drawn, where, and by what")]
    fn draw(
        &self,
        actor: &Expected,
        first: &str,
        rest: &str,
        drawn: &mut Vec<Uuid>,
        text: &mut String,
        silent: &dyn Fn(&Aid) -> String,
        symbols: &mut dyn Symbols,
    ) {
        let uuid = actor.aid.uuid();
        if drawn.contains(&uuid) {
            return; // a circle, or a number that was given twice
        }
        drawn.push(uuid);
        let children: Vec<&Expected> = self.expected.iter().filter(|child| child.parent == Some(uuid)).collect();
        let below = if children.is_empty() { "   " } else { "│  " };
        match self.answers.get(&uuid) {
            Some(answer) => {
                text.push_str(&format!("{first}{}\n", text::title(answer)));
                for line in text::lines(answer, symbols) {
                    text.push_str(&format!("{rest}{below}{line}\n"));
                }
            }
            None => text.push_str(&format!("{first}{}: {}\n", text::name(&actor.aid), silent(&actor.aid))),
        }
        for (index, child) in children.iter().enumerate() {
            let (branch, below) = if index + 1 == children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.draw(child, &format!("{rest}{branch}"), &format!("{rest}{below}"), drawn, text, silent, symbols);
        }
    }
}

fn is_called(aid: &Aid, name: &str) -> bool {
    aid.name() == name || aid.to_string() == name || (name.len() >= MIN_DIGITS && starts(aid, name))
}

fn starts(aid: &Aid, digits: &str) -> bool {
    aid.uuid().simple().to_string().starts_with(digits) || aid.uuid().to_string().starts_with(digits)
}

/// Digits of a uuid that stand for an actor.
const MIN_DIGITS: usize = 4;

#[cfg(test)]
mod tests {
    use super::super::answer::tests::{answer, task};
    use super::super::places::Place;
    use super::super::symbols::Symbol;
    use super::*;

    struct Fake;

    impl Symbols for Fake {
        fn at(&mut self, module: &str, offset: u64) -> Vec<Symbol> {
            match (module, offset) {
                ("", 1) => vec![Symbol { name: "tokio::time::sleep::Sleep::poll".into(), file: None, line: 0 }],
                ("", 2) => vec![Symbol { name: "shop::waits".into(), file: Some("src/main.rs".into()), line: 60 }],
                _ => Vec::new(),
            }
        }
    }

    fn aid(name: &str, number: u128) -> Aid {
        Aid::new(name, Uuid::from_u128(number), u32::try_from(number).unwrap(), "here")
    }

    fn expected(name: &str, number: u128, parent: u128) -> Expected {
        Expected { aid: aid(name, number), parent: (parent > 0).then(|| Uuid::from_u128(parent)) }
    }

    fn shop() -> Collector {
        let all = [("root", 1, 0), ("mid", 2, 1), ("till", 3, 1), ("leaf", 4, 2)];
        Collector::new(1, all.map(|(name, number, parent)| expected(name, number, parent)).into())
    }

    fn finish(collector: &Collector) -> String {
        collector.finish(&|_aid| "no answer".into(), &mut Fake)
    }

    #[test]
    fn a_dump_is_one_tree_with_each_actor_once() {
        let mut collector = shop();
        let mut till = answer(aid("till", 3), Some(Uuid::from_u128(1)));
        till.tasks.push(task(7, Some(vec![vec![Place(0, 1), Place(0, 2)]])));
        collector.on_answer(till.clone());
        collector.on_answer(till);
        collector.on_answer(answer(aid("root", 1), None));
        let missing: Vec<&str> = collector.missing().map(Aid::name).collect();
        assert_eq!(missing, ["mid", "leaf"]);
        let wanted = "\
root@00000000, pid 1
├─ mid@00000000, pid 2: no answer
│  └─ leaf@00000000, pid 4: no answer
└─ till@00000000, pid 3
      task 7: a task, for 5 ms
         leaf 0   shop::waits at src/main.rs:60 > tokio::time::sleep::Sleep::poll
";
        assert_eq!(finish(&collector), wanted);
    }

    #[test]
    fn a_name_narrows_to_an_actor_and_what_is_below() {
        let wanted = "mid@00000000, pid 2: no answer\n└─ leaf@00000000, pid 4: no answer\n";
        let mut mid = shop().narrowed_to("mid");
        mid.on_answer(answer(aid("root", 1), None));
        assert_eq!(finish(&mid), wanted);
        assert_eq!(finish(&shop().narrowed_to("00000000000000000000000000000002")), wanted);
        assert!(shop().narrowed_to("bob").is_empty());
    }

    #[test]
    fn an_answer_to_another_dump_is_none_and_one_that_nobody_expected_is() {
        let mut collector = shop();
        collector.on_answer(Answer { id: 2, ..answer(aid("root", 1), None) });
        assert_eq!(collector.missing().count(), 4);
        collector.on_answer(answer(aid("new", 5), Some(Uuid::from_u128(4))));
        assert_eq!(collector.missing().count(), 4);
        assert!(finish(&collector).contains("│     └─ new@00000000, pid 5\n"));
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let circle = vec![expected("a", 1, 2), expected("b", 2, 1), expected("c", 3, 0)];
        assert_eq!(finish(&Collector::new(1, circle)), "c@00000000, pid 3: no answer\n");
    }
}
