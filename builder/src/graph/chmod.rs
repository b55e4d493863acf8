//! `--chmod`: a mode in octal, or one in letters that is applied to each file's own. Pure.
//!
//! The letters are those of chmod(1) as BSD has it, which BuildKit follows: `X` looks at the mode before any change,
//! and no umask takes part.

/// A mode to set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    text: String,
    change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Absolute(u32),
    Symbolic(Vec<Action>),
}

/// One operator with its classes and its permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Action {
    /// 0700, 0070 and 0007 for `u`, `g` and `o`.
    classes: u32,
    operator: char,
    permissions: Permissions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Permissions {
    /// `r`, `w`, `x` as 4, 2, 1; `X`, `s`, `t` beside them.
    Letters { bits: u32, executable: bool, set_id: bool, sticky: bool },
    /// Those that a class has: how far its bits are shifted.
    Copied(u32),
}

impl Chmod {
    /// Reads `0755` or `u=rwX,go=rX`; none when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let change = if text.starts_with(|first: char| first.is_ascii_digit()) {
            let octal = text.bytes().all(|byte| byte.is_ascii_digit());
            Change::Absolute(u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o7777)?)
        } else {
            let mut actions = Vec::new();
            for clause in text.split(',') {
                parse_clause(clause, &mut actions)?;
            }
            Change::Symbolic(actions)
        };
        Some(Self { text: text.to_owned(), change })
    }

    /// The mode as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The mode of what had `mode` before.
    pub fn apply(&self, mode: u32, directory: bool) -> u32 {
        match &self.change {
            Change::Absolute(absolute) => *absolute,
            Change::Symbolic(actions) => {
                let executable = directory || mode & 0o111 != 0;
                actions.iter().fold(mode, |now, action| action.apply(now, executable))
            }
        }
    }
}

fn parse_clause(clause: &str, actions: &mut Vec<Action>) -> Option<()> {
    let who = clause.find(|letter| !"ugoa".contains(letter))?;
    let classes = clause[..who].chars().fold(0, |classes, letter| classes | class(letter));
    let classes = if classes == 0 { 0o777 } else { classes };
    let mut rest = &clause[who..];
    while let Some(operator) = rest.chars().next() {
        if !"+-=".contains(operator) {
            return None;
        }
        rest = &rest[1..];
        let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
        actions.push(Action { classes, operator, permissions: permissions(&rest[..end])? });
        rest = &rest[end..];
    }
    Some(())
}

fn class(letter: char) -> u32 {
    match letter {
        'u' => 0o700,
        'g' => 0o070,
        'o' => 0o007,
        _ => 0o777,
    }
}

fn permissions(text: &str) -> Option<Permissions> {
    match text {
        "u" => return Some(Permissions::Copied(6)),
        "g" => return Some(Permissions::Copied(3)),
        "o" => return Some(Permissions::Copied(0)),
        _ => {}
    }
    let (mut bits, mut executable, mut set_id, mut sticky) = (0, false, false, false);
    for letter in text.chars() {
        match letter {
            'r' => bits |= 4,
            'w' => bits |= 2,
            'x' => bits |= 1,
            'X' => executable = true,
            's' => set_id = true,
            't' => sticky = true,
            _ => return None,
        }
    }
    Some(Permissions::Letters { bits, executable, set_id, sticky })
}

impl Action {
    fn apply(&self, mode: u32, was_executable: bool) -> u32 {
        let value = match self.permissions {
            Permissions::Copied(shift) => everywhere((mode >> shift) & 7) & self.classes,
            Permissions::Letters { bits, executable, set_id, sticky } => {
                let bits = if executable && was_executable { bits | 1 } else { bits };
                let special = if set_id { self.set_ids() } else { 0 } | if sticky { self.sticky() } else { 0 };
                (everywhere(bits) & self.classes) | special
            }
        };
        match self.operator {
            '+' => mode | value,
            '-' => mode & !value,
            _ => (mode & !(self.classes | self.set_ids())) | value,
        }
    }

    fn set_ids(&self) -> u32 {
        let of = |class: u32, bit: u32| if self.classes & class == 0 { 0 } else { bit };
        of(0o700, 0o4000) | of(0o070, 0o2000)
    }

    /// The sticky bit, which others alone cannot set and `=` does not clear.
    fn sticky(&self) -> u32 {
        if self.classes & 0o770 == 0 { 0 } else { 0o1000 }
    }
}

/// The same permissions for user, group and others.
fn everywhere(bits: u32) -> u32 {
    bits << 6 | bits << 3 | bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_applied() {
        for (text, mode, directory, expected) in [
            ("0644", 0o755, false, 0o644),
            ("4755", 0, false, 0o4755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o2777, false, 0o700),
            ("go=u", 0o750, false, 0o777),
            ("u+s,g+s", 0o755, false, 0o6755),
            ("o+s", 0o755, false, 0o755),
            ("+t", 0o777, true, 0o1777),
            ("o+t", 0o777, true, 0o777),
            ("a=rx", 0o7777, true, 0o1555),
            ("u+x-w", 0o644, false, 0o544),
            ("u-x,a+X", 0o744, false, 0o755),
            ("=", 0o777, false, 0),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, directory), expected, "{text} on {mode:o}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "8", "10000", "07778", "u", "x", "u=q", "u+rw,", "z+x", "u=ru", "é", "u+é"] {
            assert_eq!(Chmod::parse(text), None, "{text}");
        }
    }
}
