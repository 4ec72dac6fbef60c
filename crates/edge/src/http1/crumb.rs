//! One cookie among others in a `Cookie` field.

/// The name of the cookie that carries a visitor's floor.
pub const FLOOR_COOKIE: &str = "pontoon_floor";

/// Cuts the cookie out of the value of a `Cookie` field: its value, and the rest. `None` when it is not in it.
pub fn cut(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    // Of most values, a look for a character that its name has says that it is not there.
    memchr::memchr(b'_', value)?;
    let crumbs = || value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let ours = |crumb: &[u8]| {
        crumb
            .strip_prefix(FLOOR_COOKIE.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="))
            .map(<[u8]>::to_vec)
    };
    let floor = crumbs().find_map(ours)?;
    let mut rest = Vec::with_capacity(value.len());
    for crumb in crumbs().filter(|crumb| ours(crumb).is_none() && !crumb.is_empty()) {
        if !rest.is_empty() {
            rest.extend_from_slice(b"; ");
        }
        rest.extend_from_slice(crumb);
    }
    Some((floor, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_our_crumb_is_cut() {
        let cut = |value: &str| {
            cut(value.as_bytes()).map(|(floor, rest)| {
                (
                    String::from_utf8(floor).unwrap(),
                    String::from_utf8(rest).unwrap(),
                )
            })
        };
        let is = |floor: &str, rest: &str| Some((floor.to_owned(), rest.to_owned()));
        assert_eq!(cut("a=b; pontoon_floor=x; c=\"d e\""), is("x", "a=b; c=\"d e\""));
        assert_eq!(cut("pontoon_floor=x"), is("x", ""));
        assert_eq!(cut("pontoon_floor=;a=b"), is("", "a=b"));
        assert_eq!(cut("pontoon_floor=x; pontoon_floor=y"), is("x", ""));
        for other in [
            "",
            "a=b",
            "my_pontoon_floor=x",
            "pontoon_floor",
            "PONTOON_FLOOR=x",
            "a=pontoon_floor=x",
            "pontoon_floors=x",
        ] {
            assert_eq!(cut(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_left_has_none_of_it(value in "[ab=; \"]{0,9}(pontoon_floor=)?[ab=; ]{0,9}(;pontoon_floor=x)?") {
            if let Some((_, rest)) = cut(value.as_bytes()) {
                prop_assert_eq!(cut(&rest), None);
            }
        }
    }
}
