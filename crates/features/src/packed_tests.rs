#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn scalar(of: Scalar) -> BoxedStrategy<Value> {
    match of {
        Scalar::Int32 => any::<i32>().prop_map(Value::Int32).boxed(),
        Scalar::Int64 => any::<i64>().prop_map(Value::Int64).boxed(),
        Scalar::Float32 => any::<f32>().prop_map(Value::Float32).boxed(),
        Scalar::Float64 => any::<f64>().prop_map(Value::Float64).boxed(),
        Scalar::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Scalar::String => ".{0,12}".prop_map(Value::String).boxed(),
        Scalar::Bytes => prop::collection::vec(any::<u8>(), 0..12).prop_map(Value::Bytes).boxed(),
        Scalar::UnixTimestamp => any::<i64>().prop_map(|at| Value::Timestamp(Moment(at))).boxed(),
    }
}

fn value(value_type: FeatureType) -> BoxedStrategy<Value> {
    let some = if value_type.list {
        prop::collection::vec(scalar(value_type.of), 0..4).prop_map(Value::List).boxed()
    } else {
        scalar(value_type.of)
    };
    prop_oneof![1 => Just(Value::Null), 4 => some].boxed()
}

type Named = (String, FeatureType, Value);

/// Features with names, types and values.
fn row() -> impl Strategy<Value = Vec<Named>> {
    let types: Vec<FeatureType> = FeatureType::all().collect();
    let feature = select(types).prop_flat_map(|of| (Just(of), value(of)));
    prop::collection::btree_map("[a-z]{1,6}", feature, 0..20)
        .prop_map(|row| row.into_iter().map(|(name, (of, value))| (name, of, value)).collect())
}

fn layout(view: &str, row: &[Named]) -> Layout {
    Layout::new(view, row.iter().map(|(name, of, _)| (name.as_str(), *of))).unwrap()
}

fn values(row: &[Named]) -> Vec<Value> {
    row.iter().map(|(_, _, value)| value.clone()).collect()
}

proptest! {
    #[test]
    fn a_row_is_read_as_it_was_written(row in row(), event: i64, created: i64) {
        let layout = layout("v", &row);
        let packed = layout.pack(Moment(event), Moment(created), &values(&row)).unwrap();
        let opened = layout.open(&packed).unwrap();
        prop_assert_eq!((opened.event, opened.created), (Moment(event), Moment(created)));
        let read = opened.values().unwrap();
        prop_assert!(read.iter().zip(&row).all(|(read, (_, _, value))| read.same(value)), "{:?}", read);
    }

    #[test]
    fn another_schema_reads_what_is_common_and_nothing_wrong(old in row(), new in row()) {
        let packed = layout("v", &old).pack(Moment(1), Moment(2), &values(&old)).unwrap();
        let reader = layout("v", &new);
        reader.open(&packed).unwrap().read(|at, kept| {
            let (name, of, _) = &new[at];
            let was = old.iter().find(|(known, known_type, _)| known == name && known_type == of);
            match (kept, was) {
                (Kept::Unknown, None) => {}
                (Kept::Known(value), Some((_, _, was))) => assert!(value.same(was)),
                (kept, was) => panic!("{name}: {kept:?} of {was:?}"),
            }
        }).unwrap();
    }

    #[test]
    fn torn_or_flipped_bytes_are_refused(row in row(), at: prop::sample::Index, bit in 0..8, cut: bool) {
        let layout = layout("v", &row);
        let mut packed = layout.pack(Moment(5), Moment(6), &values(&row)).unwrap();
        let at = at.index(packed.len());
        if cut { packed.truncate(at) } else { packed[at] ^= 1u8 << bit }
        prop_assert!(layout.open(&packed).is_err());
    }

    #[test]
    fn any_bytes_are_refused_or_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), row in row()) {
        let layout = layout("v", &row);
        if let Ok(opened) = layout.open(&bytes) {
            let _ = opened.values();
        }
        // With a checksum that fits, the inside is reached.
        let mut sealed = bytes;
        if let Some(first) = sealed.first_mut() { *first = VERSION }
        sealed.extend(layout.checksum(&sealed).to_le_bytes());
        if let Ok(opened) = layout.open(&sealed) {
            let _ = opened.values();
        }
    }

    #[test]
    fn a_row_of_another_view_is_refused(row in row()) {
        let packed = layout("v", &row).pack(Moment(1), Moment(2), &values(&row)).unwrap();
        prop_assert!(layout("w", &row).open(&packed).is_err());
    }

    #[test]
    fn the_later_event_supersedes_then_the_later_made(a: (i64, i64), b: (i64, i64)) {
        let layout = layout("v", &[]);
        let pack = |(event, created)| layout.pack(Moment(event), Moment(created), &[]).unwrap();
        prop_assert_eq!(supersedes(&pack(a), &pack(b)), a >= b);
    }
}
