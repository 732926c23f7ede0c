//! The worst guests that we could write, against steps of bounded work.

/// A module in bytes: text for a megabyte of code takes long to parse.
struct Code {
    locals: u32,
    params: u32,
    body: Vec<u8>,
}

fn leb(mut n: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (n & 0x7f) as u8;
        n >>= 7;
        if n == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn section(id: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let content = [leb(items.len() as u32), items.concat()].concat();
    [vec![id], leb(content.len() as u32), content].concat()
}

/// The functions, all without results; the last one is exported as `run`. A memory of `pages`, and a
/// table of `elements`, with a segment of as many.
fn assemble(codes: &[Code], pages: (u32, u32), elements: u32) -> Vec<u8> {
    let count = codes.len() as u32;
    let types: Vec<_> = codes
        .iter()
        .map(|code| {
            [
                vec![0x60],
                leb(code.params),
                vec![0x7f; code.params as usize],
                vec![0],
            ]
            .concat()
        })
        .collect();
    let bodies: Vec<_> = codes
        .iter()
        .map(|code| {
            let locals = match code.locals {
                0 => vec![0],
                n => [vec![1], leb(n), vec![0x7f]].concat(),
            };
            let body = [locals, code.body.clone(), vec![0x0b]].concat();
            [leb(body.len() as u32), body].concat()
        })
        .collect();
    let segment = [vec![1, 0], leb(elements), leb(0).repeat(elements as usize)].concat();
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &types),
        section(3, &(0..count).map(leb).collect::<Vec<_>>()),
        section(4, &[[vec![0x70, 0], leb(elements.max(1))].concat()]),
        section(5, &[[vec![1], leb(pages.0), leb(pages.1)].concat()]),
        section(7, &[[b"\x03run\x00".to_vec(), leb(count - 1)].concat()]),
        section(
            9,
            if elements > 0 {
                std::slice::from_ref(&segment)
            } else {
                &[]
            },
        ),
        section(10, &bodies),
    ]
    .concat()
}

fn run_only(locals: u32, body: Vec<u8>) -> Vec<u8> {
    assemble(
        &[Code {
            locals,
            params: 0,
            body,
        }],
        (3, 3),
        0,
    )
}

const END: u8 = 0x0b;
const NOP: u8 = 0x01;
const DROP: u8 = 0x1a;
const I32_CONST: u8 = 0x41;
const BR: u8 = 0x0c;
const BR_TABLE: u8 = 0x0e;
const LOCAL_GET: u8 = 0x20;

/// Repeats `body` without end.
fn forever(body: &[u8]) -> Vec<u8> {
    [&[0x03, 0x40], body, &[BR, 0, END]].concat()
}

fn constant(n: u32) -> Vec<u8> {
    // All that is asked for is below 2^31; the sign bit is the seventh of the last byte.
    let mut bytes = leb(n);
    if bytes.last().is_some_and(|last| last & 0x40 != 0) {
        let last = bytes.len() - 1;
        bytes[last] |= 0x80;
        bytes.push(0);
    }
    [vec![I32_CONST], bytes].concat()
}

fn all_of(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// It exports `run`, which never ends.
#[derive(Debug)]
pub struct Guest {
    /// Its way to be slow, in a few words.
    pub name: &'static str,
    /// The module.
    pub wasm: Vec<u8>,
}

/// All of them.
#[must_use]
pub fn guests() -> Vec<Guest> {
    let guest = |name, wasm| Guest { name, wasm };
    vec![
        guest("a loop", run_only(0, forever(&[]))),
        guest(
            "a megabyte of stores",
            run_only(
                0,
                forever(&[I32_CONST, 8, I32_CONST, 9, 0x36, 2, 0].repeat(150_000)),
            ),
        ),
        guest(
            "a megabyte of divisions",
            run_only(
                0,
                forever(&[0x42, 0xff, 0, 0x42, 3, 0x81, DROP].repeat(150_000)),
            ),
        ),
        guest(
            "256 fills of 128 KiB",
            run_only(0, forever(&fill(131_072).repeat(256))),
        ),
        guest(
            "fills of 64 KiB",
            run_only(0, forever(&fill(65_536).repeat(1000))),
        ),
        guest(
            "fills of 63 bytes",
            run_only(0, forever(&fill(63).repeat(10_000))),
        ),
        guest(
            "copies of nothing",
            run_only(
                0,
                forever(
                    &all_of(&[
                        &constant(1),
                        &constant(1),
                        &constant(100),
                        &[0xfc, 10, 0, 0],
                    ])
                    .repeat(30_000),
                ),
            ),
        ),
        guest(
            "ifs in each other",
            run_only(0, forever(&nested(&[I32_CONST, 1, 0x04, 0x40], 3000))),
        ),
        guest(
            "ifs in each other, cold",
            run_only(
                0,
                forever(&all_of(&[
                    &[0x02, 0x40],
                    &nested(
                        &[I32_CONST, 1, 0x04, 0x40, NOP, NOP, NOP, NOP, NOP, NOP],
                        3000,
                    ),
                    &[END],
                ])),
            ),
        ),
        guest("60 blocks left in turn", run_only(2, thrashing())),
        guest(
            "a br_table of 100,000",
            run_only(
                0,
                forever(&all_of(&[&[0x02, 0x40], &br_table(100_000, 0), &[END]])),
            ),
        ),
        guest(
            "br_tables beyond 255 blocks",
            run_only(0, tables_in_a_list()),
        ),
        guest("returns through 10 KB", returning(100, 10_000)),
        guest("returns through 1 MB", returning(3000, 1_000_000)),
        guest(
            "page by page",
            assemble(
                &[Code {
                    locals: 0,
                    params: 0,
                    body: forever(&[I32_CONST, 1, 0x40, 0, DROP]),
                }],
                (1, 600),
                0,
            ),
        ),
        guest(
            "grows that are refused",
            assemble(
                &[Code {
                    locals: 0,
                    params: 0,
                    body: forever(&[I32_CONST, 100, 0x40, 0, DROP].repeat(20_000)),
                }],
                (1, 600),
                0,
            ),
        ),
        guest("30,000 locals", calling(30_000, 0)),
        guest("1,000 parameters", calling(0, 1000)),
        guest(
            "elements of a segment",
            assemble(
                &[Code {
                    locals: 0,
                    params: 0,
                    body: forever(
                        &all_of(&[
                            &constant(0),
                            &constant(0),
                            &constant(100_000),
                            &[0xfc, 12, 0, 0],
                        ])
                        .repeat(500),
                    ),
                }],
                (0, 0),
                100_000,
            ),
        ),
    ]
}

fn fill(len: u32) -> Vec<u8> {
    all_of(&[&constant(0), &constant(5), &constant(len), &[0xfc, 11, 0]])
}

fn nested(open: &[u8], depth: usize) -> Vec<u8> {
    all_of(&[&open.repeat(depth), &[END].repeat(depth)])
}

fn br_table(labels: u32, last: u32) -> Vec<u8> {
    all_of(&[
        &constant(5),
        &[BR_TABLE],
        &leb(labels),
        &leb(last).repeat(labels as usize + 1),
    ])
}

/// 60 blocks that begin at addresses of one line of the cache, each left in turn, to an end that is
/// 20 KB away.
fn thrashing() -> Vec<u8> {
    let open = all_of(&[&[0x02, 0x40], &[NOP; 62]]);
    let labels: Vec<u8> = (0..60).flat_map(leb).collect();
    // i = (i + 1) % 60
    let next = [
        LOCAL_GET, 0, I32_CONST, 1, 0x6a, I32_CONST, 60, 0x70, 0x22, 0,
    ];
    let body = all_of(&[
        &open.repeat(60),
        &next,
        &[BR_TABLE, 59],
        &labels,
        &all_of(&[&[NOP; 300], &[END]]).repeat(60),
    ]);
    forever(&body)
}

/// The `br_table` that is run is the last of 3,000 in the list of those with labels beyond 255.
fn tables_in_a_list() -> Vec<u8> {
    let far = br_table(1, 299);
    let run = all_of(&[&constant(0), &[BR_TABLE, 1, 0], &leb(299)]);
    all_of(&[
        &[0x02, 0x40].repeat(300),
        &forever(&run),
        &far.repeat(3000),
        &[END].repeat(300),
    ])
}

/// Recursion of `deep` frames that each go through `bytes` of code without a branch after the call.
fn returning(deep: u32, bytes: usize) -> Vec<u8> {
    let down = all_of(&[
        &[
            LOCAL_GET, 0, 0x04, 0x40, LOCAL_GET, 0, I32_CONST, 1, 0x6b, 0x10, 0, END,
        ],
        &vec![NOP; bytes],
    ]);
    let run = forever(&all_of(&[&constant(deep), &[0x10, 0]]));
    assemble(
        &[
            Code {
                locals: 0,
                params: 1,
                body: down,
            },
            Code {
                locals: 0,
                params: 0,
                body: run,
            },
        ],
        (0, 0),
        0,
    )
}

fn calling(locals: u32, params: u32) -> Vec<u8> {
    let call = all_of(&[&[I32_CONST, 7].repeat(params as usize), &[0x10, 0]]);
    assemble(
        &[
            Code {
                locals,
                params,
                body: Vec::new(),
            },
            Code {
                locals: 0,
                params: 0,
                body: forever(&call),
            },
        ],
        (0, 0),
        0,
    )
}
