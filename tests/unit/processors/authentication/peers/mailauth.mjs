// mailauth for a batch: a line of JSON with what all jobs share, then one job a line; one answer a line.
// {"do": "verify" | "arc" | "sign" | "seal", "message": base64, "form": "relaxed/simple"}
import { createRequire } from 'node:module';
import readline from 'node:readline';

const require = createRequire(process.argv[2] + '/');
const { authenticate, dkimSign } = require('mailauth');

let shared;
const resolver = async (name, type) => {
    const text = type === 'TXT' ? shared.zone[name.toLowerCase()] : undefined;
    if (text === undefined) {
        throw Object.assign(new Error(`${name} ${type}`), { code: 'ENOTFOUND' });
    }
    return [[text]];
};

const answer = async job => {
    const message = Buffer.from(job.message, 'base64');
    if (job.do === 'sign') {
        const made = await dkimSign(message, {
            canonicalization: job.form,
            signatureData: [{ signingDomain: 'example.org', selector: 'rsa', privateKey: shared.key }]
        });
        return made.errors.length ? { error: String(made.errors[0].err) } : { fields: made.signatures };
    }
    const found = await authenticate(message, {
        ip: '192.0.2.9', helo: 'out.example.org', sender: 'ann@example.org', mta: 'mx.example.net',
        resolver, disableBimi: true,
        ...(job.do === 'seal'
            ? { seal: { signingDomain: 'sealer.example', selector: 'rsa', privateKey: shared.key } }
            : {})
    });
    if (job.do === 'verify') {
        return { results: found.dkim.results.map(row => [row.status.result, row.status.comment || '']) };
    }
    if (job.do === 'arc') {
        return { results: [[found.arc.status.result, found.arc.status.comment || '']] };
    }
    return { fields: found.headers };
};

for await (const line of readline.createInterface({ input: process.stdin })) {
    if (!shared) {
        shared = JSON.parse(line);
        continue;
    }
    console.log(JSON.stringify(await answer(JSON.parse(line)).catch(error => ({ error: String(error) }))));
}
