// What a pending delivery waits for, and what a retry did about it.

import { count, h, plural } from './dom.js';
import { lasting, left, upcoming } from './time.js';
import { prose } from './text.js';

/** The number changes while the deliveries ahead are retried, so it is not exact. */
const queue = (ahead) => (ahead === 1 ? 'about 1 delivery is ahead of it' : `about ${count(ahead)} deliveries are ahead of it`);

/** Why a delivery is pending, when its next attempt starts, and how many deliveries are ahead of it. */
export function waits({ attempts_made: made, pending }) {
  const { cause, why, next_attempt: next, attempting_since: since, ahead, behind } = pending;
  if (cause === 'attempting' && since) return [made === 0 ? 'The first attempt' : `Attempt ${count(made + 1)}`, ' has been running for ', lasting(since), '.'];
  const event = cause === 'parked' ? 'it is checked again %' : 'the next attempt is %';
  return [
    made === 0 ? 'No attempt yet: ' : `After ${plural(made, 'attempt')}: `,
    WORDS[cause]?.(pending) ?? prose(why),
    behind && [' (', link(behind), ')'],
    next && upcoming(next, `; ${ahead > 0 && cause !== 'parked' ? 'the earliest attempt is %' : event}`, ''),
    ahead > 0 && `; ${queue(ahead)}`,
    '.',
  ];
}

/** The causes that need no reason. */
const WORDS = {
  due: () => 'its attempt starts now',
  retry: () => 'the last one failed',
  conversation: () => 'an earlier message of the conversation comes first',
};

const link = (delivery) => h('a', { href: `#/messages/${delivery.slice(0, delivery.lastIndexOf('-'))}` }, 'show that message');

/** The result of a retry of one delivery. */
export function retried({ destination, outcome, pending }) {
  const ahead = pending?.ahead > 0 && `; ${queue(pending.ahead)}`;
  const next = pending?.next_attempt && left(pending.next_attempt);
  switch (outcome) {
    case 'tried': return `Sending to ${destination} now`;
    case 'probed': return [`Probing ${destination} now with another delivery first: `, prose(pending.why), ahead];
    case 'waiting': return ['Nothing was sent: ', prose(pending.why), next && `; ${ahead ? 'the earliest attempt' : 'the next attempt'} is ${next}`, ahead];
    case 'attempting': return 'An attempt is already in progress';
    case 'delivered': return 'Nothing to retry: it is already delivered';
    default: return 'Nothing to retry: the delivery does not exist';
  }
}
