//! Where everything lives: names of streams, buckets, subjects and keys. Built here and nowhere else.
