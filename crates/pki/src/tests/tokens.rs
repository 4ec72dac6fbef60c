use pontoon_fleet::{Code, Refusal, Role};

use super::*;
use crate::token::TOKEN_LIFETIME;
use crate::{Pin, Token, TokenBook, TokenError};

const START: UnixMillis = UnixMillis(1_800_000_000_000);

fn pin() -> Pin {
    Authority::create(&fleet(), START).unwrap().pin()
}

fn issued() -> (TokenBook, Token) {
    let mut book = TokenBook::default();
    let token = book.issue(pin(), START, TOKEN_LIFETIME, None).unwrap();
    (book, token)
}

#[test]
fn a_token_comes_back_from_its_text_and_debug_hides_the_secret() {
    let (_, token) = issued();
    let text = token.to_string();
    assert_eq!(text.parse::<Token>().unwrap(), token);
    assert_eq!(
        format!("  {}\n", text.to_uppercase()).parse::<Token>().unwrap(),
        token
    );
    assert!(!format!("{token:?}").contains(&token.secret));
    assert_eq!(token.secret.len(), 32, "160 bits");
}

#[test]
fn text_that_is_not_a_token_is_refused_with_a_code() {
    let (_, token) = issued();
    let text = token.to_string();
    let swapped = format!("pon1.{}.{}.{}", token.pin, token.secret, token.id);
    for bad in [
        "",
        "pon1",
        "pon1...",
        "pon1.a.b.c",
        &text[1..],
        &text[..text.len() - 1],
        &format!("{text}a"),
        &format!("{text}.x"),
        &text.replace("pon1", "pon2"),
        &text.replace('.', ","),
        &swapped,
        "ünïcödé.ö.ö.ö",
    ] {
        let error = bad.parse::<Token>().unwrap_err();
        assert_eq!(Refusal::from(error).code, Code::J002, "{bad}");
    }
}

#[test]
fn the_first_joiner_may_repeat_and_nobody_else_can_use_it() {
    let (mut book, token) = issued();
    assert_eq!(book.open(START).count(), 1);
    for _ in 0..3 {
        assert_eq!(book.redeem(&token.id, &token.secret, "joiner", START), Ok(()));
    }
    assert_eq!(
        book.redeem(&token.id, &token.secret, "other", START),
        Err(TokenError::UsedByAnother)
    );
    assert_eq!(book.open(START).count(), 0);
    // What is on disk says the same, and holds no secret.
    let disk = serde_json::to_string(&book).unwrap();
    assert!(!disk.contains(&token.secret));
    let mut read: TokenBook = serde_json::from_str(&disk).unwrap();
    assert_eq!(
        read.redeem(&token.id, &token.secret, "other", START),
        Err(TokenError::UsedByAnother)
    );
    assert_eq!(read.redeem(&token.id, &token.secret, "joiner", START), Ok(()));
}

#[test]
fn wrong_unknown_forged_and_expired_tokens_change_nothing() {
    let (mut book, token) = issued();
    let (_, other) = issued();
    let before = book.clone();
    let end = START.plus(TOKEN_LIFETIME);
    let flipped = token.secret.replacen(
        &token.secret[..1],
        if token.secret.starts_with('a') { "b" } else { "a" },
        1,
    );
    for (id, secret, now, why) in [
        (
            other.id.as_str(),
            other.secret.as_str(),
            START,
            TokenError::Unknown,
        ),
        (&other.id, &token.secret, START, TokenError::Unknown),
        (&token.id, &other.secret, START, TokenError::WrongSecret),
        (&token.id, &flipped, START, TokenError::WrongSecret),
        (&token.id, "", START, TokenError::WrongSecret),
        (&token.id, "%%%", START, TokenError::WrongSecret),
        (&token.id, &token.secret, end, TokenError::Expired),
        // A forger does not learn that the id was once good.
        (&token.id, &other.secret, end, TokenError::WrongSecret),
    ] {
        assert_eq!(book.redeem(id, secret, "joiner", now), Err(why));
        assert_eq!(book, before);
        assert_eq!(Refusal::from(why).code, Code::J001);
    }
    let last = UnixMillis(end.0 - 1);
    assert_eq!(book.redeem(&token.id, &token.secret, "joiner", last), Ok(()));
    assert_eq!(
        book.redeem(&token.id, &token.secret, "joiner", end),
        Err(TokenError::Expired)
    );
}

#[test]
fn the_hash_on_disk_is_not_the_secret() {
    let (mut book, token) = issued();
    let disk: serde_json::Value = serde_json::to_value(&book).unwrap();
    let stored = disk["tokens"][&token.id]["secret_sha256"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        book.redeem(&token.id, &stored, "thief", START),
        Err(TokenError::WrongSecret)
    );
    assert_eq!(
        book.redeem(&token.id, &stored[..32], "thief", START),
        Err(TokenError::WrongSecret)
    );
}

#[test]
fn old_tokens_are_forgotten_after_a_week_and_revoked_ones_at_once() {
    let (mut book, token) = issued();
    let late = START.plus(DAY * 6);
    book.prune(late);
    assert_eq!(
        book.redeem(&token.id, &token.secret, "j", late),
        Err(TokenError::Expired)
    );
    book.prune(START.plus(DAY * 8));
    assert_eq!(book, TokenBook::default());
    let token = book.issue(pin(), START, TOKEN_LIFETIME, None).unwrap();
    assert!(book.revoke(&token.id));
    assert!(!book.revoke(&token.id));
    assert_eq!(
        book.redeem(&token.id, &token.secret, "j", START),
        Err(TokenError::Unknown)
    );
}

#[test]
fn a_damaged_book_is_an_error_and_never_a_pass() {
    let (book, token) = issued();
    let disk = serde_json::to_string(&book).unwrap();
    assert!(serde_json::from_str::<TokenBook>(&disk[..disk.len() / 2]).is_err());
    let hash = serde_json::to_value(&book).unwrap()["tokens"][&token.id]["secret_sha256"].to_string();
    let mut emptied: TokenBook = serde_json::from_str(&disk.replace(&hash, "\"\"")).unwrap();
    assert_eq!(
        emptied.redeem(&token.id, &token.secret, "j", START),
        Err(TokenError::WrongSecret)
    );
}

#[test]
fn a_token_may_be_bound_to_roles() {
    let mut book = TokenBook::default();
    let roles = [Role::Edge, Role::App].into_iter().collect();
    let bound = book.issue(pin(), START, TOKEN_LIFETIME, Some(roles)).unwrap();
    let free = book.issue(pin(), START, TOKEN_LIFETIME, None).unwrap();
    let read: TokenBook = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
    assert_eq!(read, book);
    assert!(read.allows(&bound.id, Role::App) && !read.allows(&bound.id, Role::Db));
    assert!(read.allows(&free.id, Role::Db));
    assert!(!read.allows("unknown", Role::App));
}
