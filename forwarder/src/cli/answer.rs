//! The daemon's answers, for a person or for a script.

use std::io::Write;

use anyhow::Context as _;

use crate::{
    control::{Owner, Response},
    foreign, status,
};

/// Prints an answer: as text, or as one JSON object on one line.
pub(super) fn print(response: Response, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let text = match response {
        Response::Status(status) if json => serde_json::to_string(&status).context("write status as JSON")? + "\n",
        Response::Owner(owner) if json => serde_json::to_string(&owner).context("write owner as JSON")? + "\n",
        Response::Status(status) => status::render(&status),
        Response::Owner(owner) => render(&owner),
        Response::Drain(_) => anyhow::bail!("ask the daemon: it has answered another question"),
        Response::Error(why) => anyhow::bail!("ask the daemon: {why}"),
    };
    out.write_all(text.as_bytes()).context("write the answer")
}

fn render(owner: &Owner) -> String {
    let by = owner.by.as_deref().map_or(String::new(), |by| format!(", by the {} key", foreign::line(by)));
    let mut text = match owner.owner {
        Some(node) if owner.mine => format!("owner        node {node}, this node{by}\n"),
        Some(node) => format!("owner        node {node}{by}\n"),
        None => "owner        nobody that this node knows of\n".to_owned(),
    };
    text += &format!("claim        {}", foreign::line(&owner.state));
    if let Some(left_ms) = owner.expires_in_ms {
        text += &format!(", ends in {}.{} s", left_ms / 1000, left_ms % 1000 / 100);
    }
    text += &format!("\nrequest key  {}\n", foreign::line(&owner.request_key));
    if let Some(key) = &owner.reply_key {
        text += &format!("reply key    {}\n", foreign::line(key));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(owner: &Owner, json: bool) -> String {
        let mut out = Vec::new();
        print(Response::Owner(owner.clone()), json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_owner_is_named_with_its_claim() {
        let owner = Owner {
            request_key: "00000000000000ff".into(),
            reply_key: Some("0123456789abcdef".into()),
            owner: Some(2),
            by: Some("reply".into()),
            mine: false,
            expires_in_ms: Some(39_250),
            state: "live".into(),
        };
        let expected = "\
owner        node 2, by the reply key
claim        live, ends in 39.2 s
request key  00000000000000ff
reply key    0123456789abcdef
";
        assert_eq!(printed(&owner, false), expected);
        let mine = Owner { mine: true, ..owner.clone() };
        assert!(printed(&mine, false).starts_with("owner        node 2, this node, by the reply key\n"));
        let json = printed(&owner, true);
        assert_eq!(serde_json::from_str::<Owner>(&json).unwrap(), owner);
        assert_eq!(json.matches('\n').count(), 1);
    }

    #[test]
    fn nobody_is_said_in_words() {
        let owner = Owner { request_key: "1".repeat(16), state: "none".into(), ..Owner::default() };
        let expected =
            "owner        nobody that this node knows of\nclaim        none\nrequest key  1111111111111111\n";
        assert_eq!(printed(&owner, false), expected);
    }
}
