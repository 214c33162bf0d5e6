use proptest::prelude::*;

use super::*;

const PIECE: u64 = 1 << 20;

/// A disk of this size with data in these ranges. The map reports it in runs that are cut at multiples of `cut`.
fn map_of(
    data: Vec<Range<u64>>,
    cut: u64,
) -> impl FnMut(u64, u64, &mut dyn FnMut(Extent) -> bool) -> Result<(), ()> {
    move |offset, len_bytes, each| {
        let mut at = offset;
        while at < offset + len_bytes {
            let inside = data.iter().find(|range| range.contains(&at));
            let next = data.iter().map(|range| range.start).filter(|start| *start > at).min();
            let end = inside.map_or(next.unwrap_or(u64::MAX), |range| range.end);
            let end = end.min((at / cut + 1) * cut).min(offset + len_bytes);
            each(Extent { len_bytes: end - at, zero: inside.is_none(), hole: false });
            at = end;
        }
        Ok(())
    }
}

fn pieces(walk: Walk, data: Vec<Range<u64>>, cut: u64) -> Vec<Piece> {
    let mut taken = Vec::new();
    let end = walk.go::<()>(
        &mut map_of(data, cut),
        &mut |piece| {
            taken.push(piece);
            Ok(Took::All)
        },
        &mut |_, _| true,
    );
    assert_eq!(end, Ok(End::Whole));
    taken
}

proptest! {
    #[test]
    fn every_byte_is_in_one_piece_and_data_are_in_none_that_is_zero(
        sectors in 1_u64..300_000,
        ranges in prop::collection::vec((0_u64..300_000, 1_u64..3000), 0..12),
        cut in 1_u64..3000,
    ) {
        let walk = Walk { size_bytes: sectors * 512, piece_bytes: PIECE };
        let size = walk.size_bytes;
        let data: Vec<Range<u64>> = ranges
            .iter()
            .map(|(start, len)| (start * 512).min(size)..((start + len) * 512).min(size))
            .filter(|range| !range.is_empty())
            .collect();
        // Where ranges overlap the first match counts, as in the model.
        let mut at = 0;
        for piece in pieces(walk, data.clone(), cut * 512) {
            prop_assert_eq!(piece.at, at);
            prop_assert!(piece.len_bytes > 0);
            at += piece.len_bytes;
            let end = piece.at + piece.len_bytes;
            if piece.zero {
                prop_assert!(piece.len_bytes <= MAP_BYTES);
                prop_assert!(!data.iter().any(|range| range.start < end && piece.at < range.end));
            } else {
                prop_assert_eq!(piece.at / PIECE, (end - 1) / PIECE, "it reaches over no multiple of a piece");
                for granule in (piece.at..end).step_by(GRANULE_BYTES as usize) {
                    let granule = granule..(granule + GRANULE_BYTES).min(end);
                    let has_data = data.iter().any(|range| range.start < granule.end && granule.start < range.end);
                    prop_assert!(has_data, "{granule:?} is known to be zeroes");
                }
            }
        }
        prop_assert_eq!(at, size);
    }

    #[test]
    fn what_differs_is_found_in_whole_blocks_and_as_few_parts_as_possible(
        blocks in prop::collection::vec(any::<bool>(), 1..20),
        short in 0_usize..512,
        compares in any::<bool>(),
    ) {
        const BLOCK: usize = 4096;
        let len = blocks.len() * BLOCK - short;
        let old = vec![if compares { 7 } else { 0 }; len];
        let mut new = old.clone();
        for (i, _) in blocks.iter().enumerate().filter(|(_, differs)| **differs) {
            new[i * BLOCK + 77] = 1;
        }
        let found: Vec<Range<usize>> = differing(&new, compares.then_some(&old), BLOCK).collect();
        let mut copy = old;
        for range in &found {
            prop_assert!(range.start.is_multiple_of(BLOCK));
            copy[range.clone()].copy_from_slice(&new[range.clone()]);
        }
        prop_assert!(copy == new);
        let runs = blocks.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
        prop_assert_eq!(found.len(), runs);
        let in_blocks: usize = found.iter().map(|range| range.len().div_ceil(BLOCK)).sum();
        prop_assert_eq!(in_blocks, blocks.iter().filter(|differs| **differs).count());
    }
}

#[test]
fn a_walk_is_given_up_before_any_piece_and_takes_again_what_found_no_room() {
    let walk = Walk { size_bytes: 3 * PIECE, piece_bytes: PIECE };
    for after in 0..3 {
        let mut taken = 0;
        let end = walk.go::<()>(
            &mut all_data,
            &mut |_| {
                taken += 1;
                Ok(Took::All)
            },
            &mut |done, _| done < after * PIECE,
        );
        assert_eq!((end, taken), (Ok(End::GivenUp), after));
    }
    let mut tried = Vec::new();
    let mut asked = 0;
    let end = walk.go::<()>(
        &mut all_data,
        &mut |piece| {
            tried.push(piece.at / PIECE);
            Ok(if tried.len() == 2 { Took::NothingYet } else { Took::All })
        },
        &mut |_, _| {
            asked += 1;
            true
        },
    );
    assert_eq!((end, tried.as_slice(), asked), (Ok(End::Whole), &[0, 1, 1, 2][..], 4));
    let failed = walk.go(
        &mut all_data,
        &mut |piece| if piece.at > 0 { Err(piece.at) } else { Ok(Took::All) },
        &mut |_, _| true,
    );
    assert_eq!(failed, Err(PIECE));
}

#[test]
fn what_a_map_leaves_out_is_not_taken_for_zeroes() {
    let walk = Walk { size_bytes: 2 * PIECE, piece_bytes: PIECE };
    let mut taken = Vec::new();
    let end = walk.go::<()>(
        &mut |_, _, each| {
            each(Extent { len_bytes: PIECE, zero: true, hole: true });
            Ok(())
        },
        &mut |piece| {
            taken.push(piece.zero);
            Ok(Took::All)
        },
        &mut |_, _| true,
    );
    assert_eq!((end, taken.as_slice()), (Ok(End::Whole), &[true, false][..]));
}
