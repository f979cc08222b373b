// mailauth as a contender: reads one JSON line with what all messages share and the messages
// themselves, then a message number a line; answers each with what it found, as JSON.
import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(process.argv[2] + '/');
const { authenticate } = require('mailauth');

let job;
const resolver = async (name, type) => {
    const text = type === 'TXT' ? job.zone[name.toLowerCase()] : undefined;
    if (text === undefined) {
        throw Object.assign(new Error(`${name} ${type}`), { code: 'ENOTFOUND' });
    }
    return [[text]];
};

for await (const line of readline.createInterface({ input: process.stdin })) {
    if (!job) {
        job = JSON.parse(line);
        job.wires = job.messages.map(text => Buffer.from(text, 'base64'));
        delete job.messages;
        console.log('{}');
        continue;
    }
    const found = await authenticate(job.wires[Number(line)], {
        ip: job.ip, helo: job.helo, sender: job.sender, mta: job.mta, resolver, disableBimi: true,
        ...(job.key ? { seal: { signingDomain: job.domain, selector: job.selector, privateKey: job.key } } : {})
    });
    console.log(JSON.stringify({
        spf: found.spf.status.result,
        dkim: found.dkim.results.map(row => row.status.result),
        arc: found.arc.status.result,
        instance: found.arc.i || 0,
        dmarc: found.dmarc.status.result,
        seal: found.headers.includes('ARC-Seal: i=')
    }));
}
