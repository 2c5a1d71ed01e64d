//! What is told of collections of vectors: read from them whenever metrics are asked for, kept nowhere.

use std::fmt::{self, Debug};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Where collections stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CollectionSample {
    /// Its name.
    pub collection: String,
    /// Points of the space that is asked.
    pub points: u64,
    /// Segments of it.
    pub segments: u64,
    /// Bytes of its vectors that are kept in memory.
    pub warm_bytes: u64,
    /// Found vectors that lay in such memory.
    pub warm_hits: u64,
    /// Found vectors that did not.
    pub warm_misses: u64,
    /// By vector.
    pub vectors: Vec<VectorSample>,
    /// What was measured of what is asked.
    pub recalls: Vec<RecallSample>,
}

/// Where one of a collection's vectors stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VectorSample {
    /// Its name; empty for the one without.
    pub vector: String,
    /// Vectors that an index finds.
    pub indexed: u64,
    /// Bytes of memory that indexes take.
    pub index_bytes: u64,
    /// Bytes of the vectors themselves, on disk.
    pub vector_bytes: u64,
}

/// How many of the nearest were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecallSample {
    /// The vector's name.
    pub vector: String,
    /// The shape of the filters; empty for none.
    pub filter: String,
    /// Queries that were measured.
    pub queries: u64,
    /// The share that was found, 0 to 1.
    pub share: f64,
}

/// Whoever knows the collections.
pub trait Collections: Send + Sync + 'static {
    /// Where each of them stands now.
    fn samples(&self) -> Vec<CollectionSample>;
}

/// Tells of collections.
pub(crate) struct Watch<T>(pub(crate) T);

impl<T> Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// A metric of something: its name, what it is, and how it is read.
type Told<T> = (&'static str, &'static str, fn(&T) -> u64);

/// The labels of a series.
type Labels<'a> = Vec<(&'static str, &'a str)>;

const COUNTED: [Told<CollectionSample>; 2] = [
    ("collection_warm_hits", "Found vectors that lay in memory that is kept", |sample| sample.warm_hits),
    ("collection_warm_misses", "Found vectors that did not", |sample| sample.warm_misses),
];

impl<T: Collections> Collector for Watch<T> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let samples = self.0.samples();
        let of_collections: [Told<CollectionSample>; 3] = [
            ("collection_points", "Points of the space that is asked", |sample| sample.points),
            ("collection_segments", "Segments of the space that is asked", |sample| sample.segments),
            ("collection_warm_bytes", "Vectors that are kept in memory since they are found most", |sample| {
                sample.warm_bytes
            }),
        ];
        for (name, help, value) in of_collections {
            let series = samples.iter().map(|sample| (sample.labels(), value(sample) as f64));
            gauge(&mut encoder, name, help, series)?;
        }
        let of_vectors: [Told<VectorSample>; 3] = [
            ("collection_indexed_vectors", "Vectors that an index finds", |vector| vector.indexed),
            ("collection_index_bytes", "Memory of the indexes", |vector| vector.index_bytes),
            ("collection_vector_bytes", "Size of the vectors themselves, on disk", |vector| vector.vector_bytes),
        ];
        for (name, help, value) in of_vectors {
            let series = samples.iter().flat_map(|sample| {
                sample.vectors.iter().map(move |vector| (vector.labels(sample), value(vector) as f64))
            });
            gauge(&mut encoder, name, help, series)?;
        }
        let recalls = || samples.iter().flat_map(CollectionSample::labelled_recalls);
        let help = "Share of the nearest that searches found, measured on a sample of what was asked";
        gauge(&mut encoder, "collection_recall_ratio", help, recalls().map(|(labels, recall)| (labels, recall.share)))?;
        for (name, help, value) in COUNTED {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for sample in &samples {
                ConstCounter::new(value(sample)).encode(family.encode_family(&sample.labels())?)?;
            }
        }
        let help = "Searches whose recall was measured";
        let mut family = encoder.encode_descriptor("collection_recall_queries", help, None, MetricType::Counter)?;
        for (labels, recall) in recalls() {
            ConstCounter::new(recall.queries).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl CollectionSample {
    fn labelled_recalls(&self) -> impl Iterator<Item = (Labels<'_>, &RecallSample)> {
        self.recalls.iter().map(|recall| (recall.labels(self), recall))
    }

    fn labels(&self) -> Labels<'_> {
        vec![("collection", &self.collection)]
    }
}

impl VectorSample {
    fn labels<'a>(&'a self, of: &'a CollectionSample) -> Labels<'a> {
        vec![("collection", &of.collection), ("vector", &self.vector)]
    }
}

impl RecallSample {
    fn labels<'a>(&'a self, of: &'a CollectionSample) -> Labels<'a> {
        vec![("collection", &of.collection), ("vector", &self.vector), ("filter", &self.filter)]
    }
}

/// A gauge with these series.
fn gauge<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (Labels<'a>, f64)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
