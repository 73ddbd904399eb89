// As `trio-ws types` writes it.

export interface Methods {
  price(params: { item: string; count?: number }): Promise<number>;
  place(params: [number, string]): Promise<[number, string]>;
  names(params?: { upper?: boolean }): Promise<string[]>;
  ping(): Promise<null>;
  countdown(params: { start: number }): AsyncIterable<number>;
  count_bytes(params: { chunks: AsyncIterable<string> }): Promise<number>;
}

export interface Channels {
  news: string;
  "prices.*": number;
}
