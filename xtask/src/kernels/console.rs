//! What a guest's console says: the words of `xtask/examples/guest.rs`, and between them the output of its commands.

use crate::testing::Counts;

/// How the guest's first process begins its lines.
const WORD: &str = "guest: ";

/// One kernel's story.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Story {
    /// The kernel's release, once it has said so.
    pub(super) release: Option<String>,
    /// Commands, in their order.
    pub(super) steps: Vec<Step>,
    /// What went wrong besides commands.
    pub(super) errors: Vec<String>,
    /// It came to its end.
    pub(super) done: bool,
    /// Lines before the first command and after the last: the kernel's own, if something is wrong with it.
    pub(super) other: Vec<String>,
}

/// A command, what it wrote and how it ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) command: String,
    pub(super) lines: Vec<String>,
    /// `exit 0 after 812 ms`, or none if it never ended.
    pub(super) end: Option<String>,
}

impl Story {
    /// Takes one line; the first process's own word in it, if there is one.
    pub(super) fn see<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        // A command that ends in the middle of a line is followed at once.
        let (before, word) = match line.find(WORD) {
            Some(at) => (line.get(..at).unwrap_or_default(), line.get(at + WORD.len()..)),
            None => (line, None),
        };
        if !before.is_empty() {
            match self.steps.last_mut().filter(|step| step.end.is_none()) {
                Some(step) => step.lines.push(before.to_owned()),
                None => self.other.push(before.to_owned()),
            }
        }
        let word = word?;
        match word.split_once(' ') {
            Some(("kernel", release)) => self.release = Some(release.to_owned()),
            Some(("run", command)) => self.steps.push(Step { command: command.to_owned(), ..Step::default() }),
            Some(("exit" | "signal", _)) => {
                if let Some(step) = self.steps.last_mut() {
                    step.end = Some(word.to_owned());
                }
            }
            Some(("error:", error)) => self.errors.push(error.to_owned()),
            _ if word == "done" => self.done = true,
            _ => self.other.push(line.to_owned()),
        }
        Some(word)
    }

    /// What is wrong with it, if anything is.
    pub(super) fn complaint(&self) -> Option<String> {
        let step = self.steps.iter().find(|step| !step.succeeded());
        let step = step.map(|step| format!("{}: {}", step.command, step.end.as_deref().unwrap_or("it did not end")));
        let complaints: Vec<_> = step.into_iter().chain(self.errors.iter().cloned()).collect();
        if !complaints.is_empty() {
            return Some(complaints.join("; "));
        }
        if !self.done {
            return Some("it did not come to its end".into());
        }
        self.steps.is_empty().then(|| "it ran nothing".into())
    }

    /// What is wrong with it as that of a kernel that `program` must refuse, with exit code 1 and a line that holds
    /// `word`.
    pub(super) fn complaint_of_refusal(&self, program: &str, word: &str) -> Option<String> {
        if let Some(error) = self.errors.first() {
            return Some(error.clone());
        }
        let step = self.steps.iter().find(|step| step.is_of(program));
        let Some(step) = step else { return Some(format!("it did not run {program}")) };
        let end = step.end.as_deref().unwrap_or("it did not end");
        let refused = end.starts_with("exit 1 ") && step.lines.iter().any(|line| line.contains(word));
        (!refused).then(|| format!("{program} did not refuse it: {end}; {}", step.lines.join(" ")))
    }

    /// The kernel's release.
    pub(super) fn name(&self) -> String {
        self.release.clone().unwrap_or_else(|| "a kernel that did not say its name".into())
    }

    /// What its tests add up to.
    pub(super) fn tests(&self) -> Counts {
        let mut counts = Counts::default();
        self.steps.iter().flat_map(|step| &step.lines).for_each(|line| counts.see(line));
        counts
    }

    /// The end of what the command wrote that failed or did not end; without one, of what the kernel wrote.
    pub(super) fn last_words(&self, limit: usize) -> &[String] {
        let step = self.steps.iter().find(|step| !step.succeeded());
        let lines = step.map_or(&self.other, |step| &step.lines);
        lines.get(lines.len().saturating_sub(limit)..).unwrap_or_default()
    }

    /// The output of the first command that begins so.
    pub(super) fn output_of(&self, program: &str) -> String {
        let step = self.steps.iter().find(|step| step.is_of(program));
        step.map(|step| step.lines.join("\n")).unwrap_or_default()
    }
}

impl Step {
    /// The program and how long it took: `golden 2.1 s`.
    pub(super) fn summary(&self) -> Option<String> {
        let milliseconds: u32 = self.end.as_deref()?.split_whitespace().rev().nth(1)?.parse().ok()?;
        let program = self.command.split_whitespace().next()?;
        Some(format!("{program} {:.1} s", f64::from(milliseconds) / 1000.0))
    }

    fn is_of(&self, program: &str) -> bool {
        self.command.split_whitespace().next() == Some(program)
    }

    fn succeeded(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end.starts_with("exit 0 "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(console: &str) -> Story {
        let mut story = Story::default();
        for line in console.lines() {
            let _ = story.see(line);
        }
        story
    }

    const GOOD: &str = "[    0.1] a warning\nguest: kernel 6.1.0-50-cloud-amd64\nguest: run verify\nname 1 2\n\
        guest: exit 0 after 12 ms\nguest: run golden --test-threads 1\ntest a ... ok\n\
        test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
        guest: exit 0 after 99 ms\nguest: done\n";

    #[test]
    fn a_good_story_is_read_to_its_end() {
        let story = story(GOOD);
        assert_eq!(story.complaint(), None);
        assert_eq!(story.release.as_deref(), Some("6.1.0-50-cloud-amd64"));
        assert_eq!(story.output_of("verify"), "name 1 2");
        assert_eq!(story.output_of("absent"), "");
        assert_eq!(story.tests(), Counts { passed: 3, failed: 0, skipped: 0 });
        assert_eq!(story.other, ["[    0.1] a warning"]);
    }

    #[test]
    fn every_way_to_go_wrong_is_a_complaint() {
        for (from, to, complaint) in [
            ("exit 0 after 12", "exit 101 after 12", "verify: exit 101 after 12 ms"),
            ("exit 0 after 99", "signal 9 after 99", "golden --test-threads 1: signal 9 after 99 ms"),
            ("guest: exit 0 after 99 ms\nguest: done\n", "Kernel panic\n", "golden --test-threads 1: it did not end"),
            ("guest: done\n", "", "it did not come to its end"),
            ("guest: done\n", "guest: error: mount /proc: no\nguest: done\n", "mount /proc: no"),
            (
                "exit 0 after 99 ms\n",
                "error: start golden: no\n",
                "golden --test-threads 1: it did not end; start golden: no",
            ),
        ] {
            assert!(GOOD.contains(from));
            assert_eq!(story(&GOOD.replace(from, to)).complaint().as_deref(), Some(complaint));
        }
        assert_eq!(story("guest: done\n").complaint().as_deref(), Some("it ran nothing"));
        assert_eq!(story("").complaint().as_deref(), Some("it did not come to its end"));
    }

    #[test]
    fn a_refusal_is_exit_code_one_and_the_reason() {
        let refusal =
            "guest: run forwarder run\nerror: use kernel 5.10: it is too old; hint: …\nguest: exit 1 after 9 ms\n";
        let complaint = |console: &str| story(console).complaint_of_refusal("forwarder", "too old");
        assert_eq!(complaint(refusal), None);
        assert!(
            complaint(&refusal.replace("exit 1", "exit 0")).unwrap().starts_with("forwarder did not refuse it: exit 0")
        );
        assert!(complaint(&refusal.replace("too old", "odd")).unwrap().contains("it is odd"));
        assert!(complaint(&refusal.replace("run forwarder", "run verify")).unwrap().contains("did not run"));
        assert!(complaint(&(refusal.to_owned() + "guest: error: no\n")).is_some());
    }

    #[test]
    fn a_word_in_the_middle_of_a_line_is_read() {
        let story = story("guest: run a\ntest b ... guest: exit 1 after 5 ms\n");
        assert_eq!(story.steps[0].lines, ["test b ... "]);
        assert_eq!(story.steps[0].end.as_deref(), Some("exit 1 after 5 ms"));
    }
}
