// The page of next.
export default function Page() { return 'hello'; }
