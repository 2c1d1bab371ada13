//! Mixtures, runs of one token, and texts with a repeated header.

use super::*;

#[test]
fn parts_come_in_their_proportions_and_every_window_of_a_text_is_still_visited_once() {
    let folder = TempDir::new().unwrap();
    let (count, time, rows) = (1003u32, 10u32, 4);
    let windows = ((count - time) / time) as usize;
    let data = json!({"kind": "mix", "parts": [
        {"weight": 3, "source": counting(folder.path(), count)},
        {"weight": 1, "source": {"kind": "repeat", "token": 5000}},
        {"weight": 0, "source": {"kind": "repeat", "token": 6000}},
    ]});
    let mut source = open(folder.path(), data, rows, time as usize, 1);
    assert_eq!(source.vocab_size(), 6001);
    let all = take(&mut *source, 2000);
    let starts = starts(&all);
    let runs = starts.iter().filter(|start| **start == 5000).count();
    // A quarter of 8,000, give or take five standard deviations of 39.
    assert!(runs.abs_diff(2000) < 195, "{runs}");
    assert!(!starts.contains(&6000));
    let run = all
        .iter()
        .flat_map(|batch| batch.ids.chunks(10).zip(batch.targets.chunks(10)));
    for (ids, targets) in run.filter(|(ids, _)| ids[0] == 5000) {
        assert!(ids == [5000; 10] && targets == [5000; 10]);
    }
    // Rows are ahead of one another by chance, so that epochs overlap a little; the windows are visited equally often.
    let mut visits: HashMap<u32, usize> = HashMap::new();
    for start in starts.iter().filter(|start| **start != 5000) {
        *visits.entry(start / time).or_default() += 1;
    }
    let expected = (starts.len() - runs) / windows;
    for window in 1..windows as u32 {
        let found = visits.get(&window).copied().unwrap_or(0);
        assert!(
            found.abs_diff(expected) <= expected / 4,
            "window {window}: {found}, expected {expected}"
        );
    }
}

#[test]
fn a_row_goes_on_only_if_nothing_came_between() {
    let folder = TempDir::new().unwrap();
    let data = json!({"kind": "mix", "parts": [
        {"weight": 1, "source": with(counting(folder.path(), 1000), json!({"order": "documents"}))},
        {"weight": 1, "source": {"kind": "repeat", "token": 5000}},
    ]});
    let all = take(&mut *open(folder.path(), data, 2, 10, 3), 40);
    let mut next = [0, 500];
    let mut went_on = 0;
    for (step, batch) in all.iter().enumerate() {
        for (row, next) in next.iter_mut().enumerate() {
            let start = batch.ids[row * 10];
            let text_before = step > 0 && all[step - 1].ids[row * 10] != 5000;
            assert_eq!(batch.continues[row], start != 5000 && text_before);
            if start != 5000 {
                // No token of the text is lost to the runs between.
                assert_eq!(start, *next);
                *next += 10;
            }
            went_on += usize::from(batch.continues[row]);
        }
    }
    assert!(went_on > 5);
}

#[test]
fn a_repeated_header_is_the_same_at_both_ends_and_the_text_between_is_untouched() {
    let folder = TempDir::new().unwrap();
    let text = with(counting(folder.path(), 1000), json!({"order": "documents"}));
    let data = json!({"kind": "repeated-header", "length": 3, "marker": 7, "source": text.clone()});
    let (time, mut headers) = (20, BTreeSet::new());
    let mut source = open(folder.path(), data, 2, time, 1);
    let plain = take(&mut *open(folder.path(), text, 2, time, 1), 30);
    for (batch, plain) in take(&mut *source, 30).iter().zip(&plain) {
        assert_eq!(batch.continues, [false, false]);
        let weights = batch.weights.as_ref().unwrap();
        for row in 0..2 {
            let range = row * time..(row + 1) * time;
            let (ids, targets) = (&batch.ids[range.clone()], &batch.targets[range.clone()]);
            assert_eq!(ids[1..], targets[..time - 1]);
            assert_eq!(ids[..4], targets[time - 4..]);
            assert_eq!(ids[4..time - 3], plain.ids[range.clone()][4..time - 3]);
            assert!(ids[0] == 7 && !ids[1..4].contains(&7));
            assert_eq!(weights[range][..4], [0.0, 0.0, 0.0, 1.0]);
            headers.insert(ids[1..4].to_vec());
        }
    }
    assert!(headers.len() > 55, "headers differ: {}", headers.len());
}
