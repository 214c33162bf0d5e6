use super::stretches;

#[test]
fn data_is_taken_in_as_few_stretches_as_possible_and_zeroes_between_them_are_not() {
    const BLOCK: usize = 64 << 10;
    // One bit a block says whether it has data; the last block is a short one.
    for pattern in 0_u32..1 << 5 {
        let mut piece = vec![0; 5 * BLOCK - 512];
        for block in (0..5).filter(|block| pattern >> block & 1 == 1) {
            piece[block * BLOCK + 77] = 1;
        }
        let found = stretches(&piece);
        let mut copy = vec![0; piece.len()];
        for place in &found {
            copy[place.clone()].copy_from_slice(&piece[place.clone()]);
        }
        assert!(copy == piece, "{pattern:b}");
        let begins = (pattern & !(pattern << 1)).count_ones() as usize;
        assert_eq!(found.len(), begins, "{pattern:b}");
        let with_data: usize = found.iter().map(|place| place.len().div_ceil(BLOCK)).sum();
        assert_eq!(with_data, pattern.count_ones() as usize, "{pattern:b}");
    }
}
