//! Tokens that the files beside tokenizer.json name, added to it as transformers adds them.
//!
//! Source: `_from_pretrained` and `TokenizersBackend` of <https://github.com/huggingface/transformers>.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Model};

use super::{Tokenizer, tokenizer_error};
use crate::error::{Error, Result};

pub(super) const CONFIG: &str = "tokenizer_config.json";
pub(super) const ADDED: &str = "added_tokens.json";
pub(super) const DECODER: &str = "added_tokens_decoder";

/// Keys of the config whose tokens are added first, in this order; then those of other keys that end in `_token`.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token that a file gives a certain id.
#[derive(Clone)]
pub(super) struct Claim {
    id: u32,
    token: AddedToken,
    file: &'static str,
}

/// The tokens of the config that it lists with their ids.
pub(super) fn decoder(folder: &Path, config: &Map<String, Value>) -> Result<Vec<Claim>> {
    let refuse = |detail| Error::file(folder.join(CONFIG), format!("{DECODER} {detail}"));
    let Some(listed) = config.get(DECODER) else { return Ok(Vec::new()) };
    let listed = listed.as_object().ok_or_else(|| refuse("must be an object of ids and tokens".to_owned()))?;
    let claim = |(id, value): (&String, &Value)| {
        let claim = id.parse().ok().zip(token(value, None)).map(|(id, token)| Claim { id, token, file: CONFIG });
        claim.ok_or_else(|| refuse(format!("must be ids and tokens, has {id:?}: {value}")))
    };
    listed.iter().map(claim).collect()
}

/// The tokens of added_tokens.json: special if the config names them so.
pub(super) fn listed(folder: &Path, config: &Map<String, Value>, ids: &Map<String, Value>) -> Result<Vec<Claim>> {
    let specials = specials(config).concat();
    let claim = |(content, value): (&String, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let refuse = || Error::file(folder.join(ADDED), format!("{content:?} must have an id, has {value}"));
        let is_special = specials.iter().any(|special| special.content == *content);
        Ok(Claim { id: id.ok_or_else(refuse)?, token: AddedToken::from(content, is_special), file: ADDED })
    };
    ids.iter().map(claim).collect()
}

/// The tokens that the config names as special, in the order in which they are added: those with a meaning, and others.
fn specials(config: &Map<String, Value>) -> [Vec<AddedToken>; 2] {
    let named = NAMED.iter().filter_map(|name| config.get(*name));
    let others = config.iter().filter(|(name, _)| name.ends_with("_token") && !NAMED.contains(&name.as_str()));
    let extra = config.get("extra_special_tokens");
    let more = extra.and_then(Value::as_object).into_iter().flat_map(Map::values);
    let is_listed = |value: &&Value| value.as_array().is_some_and(|listed| !listed.is_empty());
    let listed = extra.filter(is_listed).or_else(|| config.get("additional_special_tokens"));
    let special = |value| token(value, Some(true));
    [
        named.chain(others.map(|(_, value)| value)).chain(more).filter_map(special).collect(),
        listed.and_then(Value::as_array).into_iter().flatten().filter_map(special).collect(),
    ]
}

/// The text of a token that is given as such, or as an object with its flags.
pub(super) fn content(value: &Value) -> Option<&str> {
    value.get("content").unwrap_or(value).as_str().filter(|content| !content.is_empty())
}

fn token(value: &Value, is_special: Option<bool>) -> Option<AddedToken> {
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let token = AddedToken::from(content(value)?, is_special.or(flag("special")).unwrap_or(false));
    let normalized = flag("normalized").unwrap_or(token.normalized);
    let [single_word, lstrip, rstrip] = ["single_word", "lstrip", "rstrip"].map(|name| flag(name).unwrap_or(false));
    Some(token.normalized(normalized).single_word(single_word).lstrip(lstrip).rstrip(rstrip))
}

/// Takes what special_tokens_map.json says into the config: it comes first, and lists are joined.
pub(super) fn put(config: &mut Map<String, Value>, name: String, value: Value) {
    match (config.get_mut(&name), value) {
        (Some(Value::Array(listed)), Value::Array(more)) => {
            let new: Vec<Value> = more.into_iter().filter(|value| !listed.contains(value)).collect();
            listed.extend(new);
        }
        (_, value) => drop(config.insert(name, value)),
    }
}

impl Tokenizer {
    /// Refuses an id or a token that has another partner in another file of `folder`, or among the tokens that are there.
    pub(super) fn refuse_contradictions(&self, folder: &Path, claims: &[Claim]) -> Result<()> {
        let (mut ids, mut contents) = (HashMap::new(), HashMap::new());
        for Claim { id, token, file } in claims {
            let (content, file) = (token.content.as_str(), folder.join(file));
            let refuse = |other: String, of: PathBuf| {
                let of = of.file_name().unwrap_or_default().display().to_string();
                Err(Error::file(&file, format!("token {content:?} has id {id}, but in {of} {other}"))
                    .with_hint("these files are of two tokenizers: take all of them from where the model is from"))
            };
            let known = self.inner.token_to_id(content).map(|id| (id, self.source(id)));
            match known.or_else(|| ids.get(content).cloned()) {
                Some((other, of)) if other != *id => return refuse(format!("it has {other}"), of),
                _ => {}
            }
            let known = self.content(*id).map(|content| (content, self.source(*id)));
            match known.or_else(|| contents.get(id).cloned()) {
                Some((other, of)) if other != content => return refuse(format!("that is {other:?}"), of),
                _ => {}
            }
            contents.insert(*id, (content.to_owned(), file.clone()));
            ids.insert(content, (*id, file));
        }
        Ok(())
    }

    /// Adds the tokens that a file gives an id, in the order of their ids, then those that the config names.
    pub(super) fn add(&mut self, folder: &Path, mut claims: Vec<Claim>, config: &Map<String, Value>) -> Result<()> {
        claims.sort_by_key(|claim| claim.id);
        let known = self.inner.get_added_tokens_decoder().into_values();
        let known: HashMap<String, AddedToken> = known.map(|token| (token.content.clone(), token)).collect();
        let [named, others] = specials(config);
        let is_named = |token: &AddedToken| named.iter().any(|named| named.content == token.content);
        // What the config lists stands for all tokens; else those that are known are looked at as well.
        let looked_at = known.values().filter(|_| !config.contains_key(DECODER));
        let mut tokens: Vec<AddedToken> =
            claims.iter().map(|claim| &claim.token).chain(looked_at.filter(|token| is_named(token))).cloned().collect();
        for token in &mut tokens {
            token.special |= is_named(token);
        }
        for special in named.iter().chain(&others) {
            let is_claimed = claims.iter().any(|claim| claim.token.content == special.content);
            // One that is named twice, with other flags, is added twice: the last flags count.
            if !known.contains_key(&special.content) && !is_claimed && !tokens.contains(special) {
                tokens.push(special.clone());
            }
        }
        let mut new = tokens.clone();
        new.retain(|token| self.inner.token_to_id(&token.content).is_none());
        self.inner.add_tokens(tokens).map_err(|e| tokenizer_error(&self.path, e))?;
        for Claim { id, token, file } in &claims {
            let given = self.inner.token_to_id(&token.content);
            if let Some(given) = given.filter(|given| given != id) {
                return Err(gap(&folder.join(file), &token.content, *id, given));
            }
        }
        let file =
            |content: &str| claims.iter().find(|c| c.token.content == content).map_or(CONFIG, |claim| claim.file);
        let sources = new
            .iter()
            .filter_map(|token| Some((self.inner.token_to_id(&token.content)?, folder.join(file(&token.content)))));
        self.sources.extend(sources);
        Ok(())
    }

    /// The token with this id, as it is written.
    pub(super) fn content(&self, id: u32) -> Option<String> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder().get(&id);
        added.map(|token| token.content.clone()).or_else(|| self.inner.get_model().id_to_token(id))
    }

    /// The file that a token is from.
    pub(super) fn source(&self, id: u32) -> PathBuf {
        let [json, model] = ["tokenizer.json", "tokenizer.model"].map(|name| self.path.join(name));
        let own = [json, model].into_iter().find(|path| path.exists());
        self.sources.get(&id).cloned().or(own).unwrap_or_else(|| self.path.clone())
    }

    /// Whether a token is to be added. Those of added_tokens.json are if the config lists none and tokenizer.json, which
    /// knows their flags, has them not.
    pub(super) fn takes(&self, claim: &Claim, is_listed: bool) -> bool {
        let known = self.inner.get_added_vocabulary().get_vocab();
        claim.file == CONFIG || !is_listed && !known.contains_key(&claim.token.content)
    }
}

/// Refuses a token of tokenizer.json whose id in `added_tokens` is not the one it comes to by its place.
pub(super) fn refuse_misplaced(path: &Path, inner: &tokenizers::Tokenizer, id: u32, content: &str) -> Result<()> {
    match inner.token_to_id(content) {
        Some(given) if given != id => match inner.get_model().token_to_id(content) {
            Some(_) => Err(Error::file(path, format!("token {content:?} has id {id}, but {given} in its vocabulary"))),
            None => Err(gap(path, content, id, given)),
        },
        _ => Ok(()),
    }
}

fn gap(path: &Path, content: &str, id: u32, given: u32) -> Error {
    Error::file(
        path,
        format!("token {content:?} has id {id}, but the next id is {given}: tokens are missing before it"),
    )
    .with_hint("the tokens of a tokenizer are numbered without gaps: list those in between too")
}
