//! Hands late deliveries over to the fallback.

use super::keys::Place;
use super::write_batch::WriteBatch;
use super::{Shared, Sled};
use crate::model::delivery::{Delivery, DeliveryId};
use crate::store::sled::view::View;
use crate::store::{Error, Found, HandOver, HandedOver};

impl Sled {
    /// Most deliveries of a long backlog were handed over before: the writer only gets those that seem not to be.
    pub(super) async fn hand_over_late(&self, request: &HandOver) -> Result<HandedOver, Error> {
        let (late, next) = self.shared.index.queues().late(request);
        let Some(last) = late.last().copied() else {
            return Ok(HandedOver {
                next,
                ..HandedOver::default()
            });
        };
        let places = late.into_iter().map(|one| Place {
            seq: one.seq,
            ordinal: one.ordinal,
        });
        let (places, wanted) = (places.collect::<Vec<_>>(), request.clone());
        let left = self
            .read(move |shared| shared.not_handed_over(&places, &wanted))
            .await?;
        let deliveries = match left.is_empty() {
            true => Vec::new(),
            false => {
                let request = request.clone();
                self.threads
                    .write(move |batch| batch.hand_over(&left, &request))
                    .await?
            }
        };
        Ok(HandedOver {
            deliveries,
            last: Some(last),
            next,
        })
    }
}

impl Shared {
    fn not_handed_over(&self, places: &[Place], request: &HandOver) -> Result<Vec<Place>, Error> {
        let view = View::new(&self.overlay);
        let mut left = Vec::new();
        for &place in places {
            let found = self.sound(view.found(place.seq))?;
            if found.is_some_and(|found| follow_up(&found, place, request).is_some()) {
                left.push(place);
            }
        }
        Ok(left)
    }
}

impl WriteBatch<'_> {
    fn hand_over(
        &mut self,
        places: &[Place],
        request: &HandOver,
    ) -> Result<Vec<(DeliveryId, DeliveryId)>, Error> {
        self.space.for_anything()?;
        let mut handed = Vec::new();
        for &place in places {
            let found = self.shared.sound(self.view.found(place.seq))?;
            // An earlier one of this batch may be of the same message.
            let new = found.and_then(|found| follow_up(&found, place, request));
            let kept = self.shared.sound(self.view.kept(place.seq))?;
            let (Some((id, follow_up)), Some(kept)) = (new, kept) else {
                continue;
            };
            let conversation = kept.message.conversation();
            handed.push((id, self.add(place.seq, &kept, conversation, follow_up)?));
        }
        Ok(handed)
    }
}

fn follow_up(found: &Found, place: Place, request: &HandOver) -> Option<(DeliveryId, Delivery)> {
    let mut all = found.deliveries.iter();
    let delivery = all.find(|delivery| delivery.id.ordinal == place.ordinal)?;
    if found.message.redacted_at.is_some() {
        return None;
    }
    Some((delivery.id, request.of(delivery, &found.deliveries)?))
}
