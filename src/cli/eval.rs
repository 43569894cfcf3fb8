//! `vicugna eval`: loss and perplexity on a file of records.
